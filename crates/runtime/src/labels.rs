//! The labels that carry everything Balsa knows about a container.
//!
//! The first four are those that log shippers and cAdvisor look for; the rest is ours. A container
//! without [`NODE`] is somebody else's and is never touched.

/// The pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name in the pod; `POD` on a sandbox.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// The node whose agent made it: several agents may share one Docker.
pub const NODE: &str = "balsa.dev/node";
/// The cluster, so that clean-up takes away one cluster's and nothing else.
pub const CLUSTER: &str = "balsa.dev/cluster";
/// [`KIND_SANDBOX`] or [`KIND_CONTAINER`].
pub const KIND: &str = "balsa.dev/kind";
/// Which try of this container it is, from 0.
pub const ATTEMPT: &str = "balsa.dev/attempt";
/// A hash of what it was made from; another hash means that it must be made anew.
pub const SPEC_HASH: &str = "balsa.dev/spec-hash";
/// A hash of the shares and limits that it was made with; another hash means that it was, or is to be, resized.
pub const RESOURCES: &str = "balsa.dev/resources";
/// What its image is told by: a digest in a repository, or the engine's id.
pub const IMAGE_ID: &str = "balsa.dev/image-id";
/// The id of the sandbox that an app container lives in.
pub const SANDBOX: &str = "balsa.dev/sandbox";
/// `init`, `app` or `ephemeral`.
pub const CONTAINER_TYPE: &str = "balsa.dev/container-type";
/// The pod's termination grace period in seconds, for an agent that finds the container and no pod.
pub const GRACE_PERIOD: &str = "balsa.dev/grace-period";

/// The ports of the machine that its pod has, on a sandbox: other processes on the same engine read them.
pub const HOST_PORTS: &str = "balsa.dev/host-ports";

/// The value of [`KIND`] on a pod's sandbox.
pub const KIND_SANDBOX: &str = "sandbox";
/// The value of [`KIND`] on a pod's containers.
pub const KIND_CONTAINER: &str = "container";
/// What [`CONTAINER_NAME`] says on a sandbox.
pub const SANDBOX_CONTAINER_NAME: &str = "POD";

/// The engine's name for a container, in the form people know from nodes that run Docker:
/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`.
pub fn container_name(container: &str, pod: &str, namespace: &str, uid: &str, attempt: u32) -> String {
    format!("k8s_{container}_{pod}_{namespace}_{uid}_{attempt}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_those_of_docker_nodes() {
        assert_eq!(super::container_name("web", "phippy-0", "zoo", "u-1", 2), "k8s_web_phippy-0_zoo_u-1_2");
    }
}
