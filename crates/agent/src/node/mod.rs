//! The node itself: its object, its conditions, its Lease, and its pod CIDR.

pub(crate) mod facts;
pub(crate) mod garbage;
pub(crate) mod lease;
pub(crate) mod register;
