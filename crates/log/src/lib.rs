//! The replicated log: openraft over RocksDB. It carries bytes and knows no kinds.
