//! Work in a chosen network namespace.
//!
//! A thread belongs to one namespace, and joining another changes only that thread. So work in a
//! pod's namespace runs on a thread of its own, which ends with the work; sockets opened and
//! programs started there belong to that namespace, and no thread of the runtime ever changes.

use std::fs::File;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use crate::error::NetError;

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Netns {
    /// The one this process runs in.
    #[default]
    Current,
    /// The one this file stands for, such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    Path(PathBuf),
}

impl Netns {
    /// The namespace of a process: a sandbox container's first process, as Docker reports it.
    pub fn of_pid(pid: u32) -> Self {
        Self::Path(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// A namespace that `ip netns add` made.
    pub fn named(name: &str) -> Self {
        Self::Path(PathBuf::from("/run/netns").join(name))
    }

    /// Runs `work` on a thread inside the namespace, and waits for it without blocking the runtime.
    pub async fn run<T, F>(&self, work: F) -> Result<T, NetError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, NetError> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let netns = self.clone();
        std::thread::Builder::new()
            .name("balsa-netns".into())
            .spawn(move || {
                let _ = reply.send(netns.enter().and_then(|()| work()));
            })
            .map_err(|source| NetError::EnterNamespace { netns: self.describe(), source })?;
        answer.await.map_err(|_| NetError::WorkerGone)?
    }

    /// The file, opened: what the kernel is given to move a link there.
    pub(crate) fn open(&self) -> Result<File, NetError> {
        let path = match self {
            Self::Current => PathBuf::from("/proc/thread-self/ns/net"),
            Self::Path(path) => path.clone(),
        };
        File::open(path).map_err(|source| NetError::EnterNamespace { netns: self.describe(), source })
    }

    fn enter(&self) -> Result<(), NetError> {
        if matches!(self, Self::Current) {
            return Ok(());
        }
        setns(self.open()?, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetError::EnterNamespace { netns: self.describe(), source: errno.into() })
    }

    fn describe(&self) -> String {
        match self {
            Self::Current => "of this process".into(),
            Self::Path(path) => path.display().to_string(),
        }
    }
}
