//! See `checks/model.rs`.
#![no_main]

#[path = "../checks/model.rs"]
mod checks;

// Panics that are caught are none: libFuzzer sees those that come out.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |bytes: &[u8]| checks::run("patch_strategic", bytes)
);
