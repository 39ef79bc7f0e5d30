//! See `checks/model.rs`.
#![no_main]

#[path = "../checks/model.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run("body", bytes));
