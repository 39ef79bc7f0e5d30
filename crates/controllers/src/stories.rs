//! Stories: all controllers on a cluster in memory, with a kubelet that says that pods are ready.

mod cluster;
mod machines;
mod owners;
mod rollout;
mod tasks;
mod workloads;
