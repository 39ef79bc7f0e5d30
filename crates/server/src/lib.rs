//! The front doors (REST and gRPC), identity, authorization and admission.
