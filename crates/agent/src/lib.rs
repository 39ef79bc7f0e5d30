//! A node: pods become containers, services become rules, logs are kept.
//!
//! ```text
//!   server ──watch──▶ Pods (who shall be here) ──▶ one actor a pod ──▶ runtime, volumes, network
//!     ▲                                                   │
//!     ├──────── StatusBoard (latest status a pod) ◀───────┤
//!     │                                                   └──▶ logs
//!     ├── Registrar (Node), Lease, or a session's heartbeat
//!     └── session: logs, exec, attach, port-forward, dialled from here
//! ```
//!
//! - [`Agent`] is put together from what is passed in: a client, a runtime, a network, a clock;
//! - [`NodeNetwork`] and [`TokenSource`] are the seams beside [`balsa_runtime::Runtime`];
//! - [`join`] gets a node its certificate.
//!
//! Without a server the agent keeps everything running. After its own restart it adopts what runs.

mod agent;
mod board;
mod config;
mod context;
mod error;
mod files;
mod http;
pub mod join;
mod logs;
pub mod metrics;
mod net;
mod node;
mod objects;
mod pod;
mod probe;
mod session;
mod usage;
mod volumes;

pub use agent::{Agent, AgentHandle};
pub use config::{AgentConfig, Timing};
pub use error::AgentError;
pub use http::router;
pub use net::{CountedNetwork, HealthCheck, KernelNetwork, KernelNetworkConfig, NetworkSeam, NodeNetwork};
pub use node::register::PROXY_ANNOTATION;
pub use pod::host_ports::HostPorts;
pub use session::SessionEndpoint;
pub use volumes::{NoTokens, ServiceAccountToken, TokenRequest, TokenSource};
