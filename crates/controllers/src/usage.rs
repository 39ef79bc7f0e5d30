//! What pods use, as controllers ask for it. Who measures it is the server's business.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use balsa_model::Failure;
use jiff::Timestamp;

/// How much of what schedulers count in is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Billionths of a processor.
    pub cpu_nanos: u64,
    /// Bytes of memory that cannot be given back.
    pub memory: u64,
}

/// What the containers of a pod use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was measured.
    pub at: Timestamp,
    /// Over how long.
    pub window: Duration,
    /// By the containers' names.
    pub containers: BTreeMap<String, Amount>,
}

/// Knows what pods use.
#[async_trait]
pub trait UsageSource: Send + Sync + 'static {
    /// What the pods of a namespace use, as far as it is known.
    async fn pods(&self, namespace: &str) -> Result<Vec<PodUsage>, Failure>;
}
