//! Generates the peer protocol from `proto/balsa/raft/v1`, with a compiler written in Rust so that
//! none has to be installed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    // Asked now, not when compiled: clones that share a target directory share this program.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = ["balsa/raft/v1/entry.proto", "balsa/raft/v1/raft.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    // Payloads are handed on as shared bytes: they are the bulk of everything and never copied.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
