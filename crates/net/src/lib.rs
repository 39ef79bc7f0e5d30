//! Pod network, service proxy and DNS: pure rules, then what applies them.
