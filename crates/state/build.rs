//! Generates the messages of log entries and table rows from `proto/balsa/log/v1`, with a compiler
//! written in Rust so that none has to be installed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    // Asked now, not when compiled: clones that share a target directory share this program.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let file = "balsa/log/v1/log.proto";
    println!("cargo::rerun-if-changed={}", root.join(file).display());
    let descriptors = protox::compile([file], [&root])?;
    // Objects are handed on as shared bytes and not copied out of an entry.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
