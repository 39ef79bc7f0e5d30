//! What can go wrong with a runtime, in families that callers act on.
//!
//! The caller's fault ([`Error::Invalid`], [`Error::Conflict`], not-found), try again
//! ([`Error::Unavailable`], some pulls), and the container's own ([`Error::Start`]). Messages are the
//! engine's, because that is what people search for; only what is in front of them is ours.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a runtime did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such container, exec session or network.
    #[error("not found: {message}")]
    NotFound {
        /// What the engine said.
        message: String,
    },
    /// A name is taken, or the container's state does not allow it.
    #[error("conflict: {message}")]
    Conflict {
        /// What the engine said.
        message: String,
    },
    /// The image is not on this machine.
    #[error("image \"{image}\" is not present")]
    ImageNotFound {
        /// As it was asked for.
        image: String,
    },
    /// A pull did not succeed.
    #[error("failed to pull image \"{image}\": {message}")]
    ImagePull {
        /// As it was asked for.
        image: String,
        /// The family of the failure.
        reason: PullReason,
        /// What the engine or the registry said.
        message: String,
    },
    /// The container's process could not be started: no such command, a bad mount, a refused sysctl.
    #[error("failed to start container: {message}")]
    Start {
        /// What the engine said.
        message: String,
    },
    /// The engine does not answer: try again.
    #[error("container runtime is unavailable: {message}")]
    Unavailable {
        /// What kept it.
        message: String,
    },
    /// It took longer than allowed.
    #[error("timed out after {seconds}s: {what}")]
    Timeout {
        /// What was being done.
        what: String,
        /// How long it was given, in seconds.
        seconds: u64,
    },
    /// The request itself is wrong.
    #[error("invalid: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// Anything else that the engine reports.
    #[error("{message}")]
    Other {
        /// What the engine said.
        message: String,
    },
}

impl Error {
    /// The same call may well succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } => true,
            Self::ImagePull { reason, .. } => {
                matches!(reason, PullReason::Unreachable | PullReason::RateLimited)
            }
            _ => false,
        }
    }

    /// The thing named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::ImageNotFound { .. })
    }

    /// A name is taken or the state forbids it.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Why an image could not be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PullReason {
    /// The registry has no such image, or hides that it has.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The registry could not be reached.
    Unreachable,
    /// The registry wants to be asked less often.
    RateLimited,
    /// That is not the name of an image.
    InvalidName,
    /// Anything else.
    Other,
}

impl PullReason {
    /// The reason that `kubectl get pods` shows while a container waits for this image.
    pub fn waiting_reason(self) -> &'static str {
        match self {
            Self::InvalidName => "InvalidImageName",
            Self::RateLimited => "RegistryUnavailable",
            _ => "ErrImagePull",
        }
    }

    /// Sorts what an engine says when a pull fails.
    pub fn from_message(message: &str) -> Self {
        const TABLE: &[(PullReason, &[&str])] = &[
            (PullReason::InvalidName, &["invalid reference format", "repository name must be"]),
            (PullReason::RateLimited, &["toomanyrequests", "too many requests"]),
            (
                PullReason::Unreachable,
                &[
                    "dial tcp",
                    "no such host",
                    "timeout",
                    "connection refused",
                    "connection reset",
                    "tls handshake",
                    "client.timeout",
                    "server misbehaving",
                    "network is unreachable",
                    "service unavailable",
                ],
            ),
            (PullReason::NotFound, &["manifest unknown", "not found", "does not exist"]),
            (PullReason::Unauthorized, &["unauthorized", "denied", "authentication", "no basic auth"]),
        ];
        let message = message.to_ascii_lowercase();
        TABLE
            .iter()
            .find(|(_, needles)| needles.iter().any(|needle| message.contains(needle)))
            .map_or(Self::Other, |(reason, _)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_messages_fall_into_families() {
        for (message, reason) in [
            ("invalid reference format", PullReason::InvalidName),
            ("manifest for nginx:nope not found: manifest unknown: manifest unknown", PullReason::NotFound),
            (
                "pull access denied for x, repository does not exist or may require 'docker login'",
                PullReason::NotFound,
            ),
            ("unauthorized: authentication required", PullReason::Unauthorized),
            (
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
                PullReason::Unreachable,
            ),
            ("toomanyrequests: You have reached your pull rate limit", PullReason::RateLimited),
            ("something else", PullReason::Other),
        ] {
            assert_eq!(PullReason::from_message(message), reason, "{message}");
        }
        assert_eq!(PullReason::InvalidName.waiting_reason(), "InvalidImageName");
    }
}
