//! The log and the state together on a simulated network, clock and disk, with faults, from a seed.
//!
//! Several servers run on one thread in [turmoil]: the code is the one that programs run, time is
//! tokio's paused clock, messages take a drawn time, and everything random follows from the seed. A
//! crash drops a server in the middle of whatever it does and takes away what its disk had not
//! synced. Clients read and write through their servers, watchers resume on one server after another;
//! in the end [`check`] holds what they were told against what the servers agree on.
//!
//! Each run is a process of its own: what one process counts through all its life (tokio seeds `select!`
//! from such a counter) begins anew, the system's random numbers come from the seed ([`balsa_entropy`]), and
//! a server that ends the process, as its task table says, ends that run only. So a seed repeats itself
//! to the last step.
//!
//! `make test` runs a fixed set of seeds and some fresh ones, `make simulate SEEDS=n` that many fresh ones,
//! `make simulate SEED=s` just that one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod check;
mod clients;
mod disk;
mod faults;
mod host;
mod network;
mod scenarios;
mod seeds;
mod watchers;
mod world;
