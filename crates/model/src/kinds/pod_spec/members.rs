//! The containers of a pod of any sort: the first, the usual, and the guests.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, PodSpec, ResourceRequirements, SecurityContext,
};

use crate::field::Path;

/// A container of any sort, as far as all sorts are alike.
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) context: Option<&'a SecurityContext>,
    pub(crate) resources: Option<&'a ResourceRequirements>,
    pub(crate) env: &'a [EnvVar],
    pub(crate) ports: &'a [ContainerPort],
    pub(crate) path: Path,
}

/// All containers of a pod; `path` is its spec's.
pub(crate) fn members<'a>(spec: &'a PodSpec, path: &Path) -> Vec<Member<'a>> {
    let of = |containers: &'a [Container], field| {
        let path = path.child(field);
        containers.iter().enumerate().map(move |(i, container)| Member {
            name: &container.name,
            context: container.security_context.as_ref(),
            resources: container.resources.as_ref(),
            env: container.env.as_deref().unwrap_or_default(),
            ports: container.ports.as_deref().unwrap_or_default(),
            path: path.index(i),
        })
    };
    let init = of(spec.init_containers.as_deref().unwrap_or_default(), "initContainers");
    let ephemeral_path = path.child("ephemeralContainers");
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    let ephemeral = ephemeral.map(|(i, container)| Member {
        name: &container.name,
        context: container.security_context.as_ref(),
        resources: container.resources.as_ref(),
        env: container.env.as_deref().unwrap_or_default(),
        ports: container.ports.as_deref().unwrap_or_default(),
        path: ephemeral_path.index(i),
    });
    init.chain(of(&spec.containers, "containers")).chain(ephemeral).collect()
}
