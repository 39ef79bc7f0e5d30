//! The binary: up, server, agent and the command line.

fn main() {}
