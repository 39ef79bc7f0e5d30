//! See `crates/server/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| balsa_server::fuzzing::run("continue_token", bytes));
