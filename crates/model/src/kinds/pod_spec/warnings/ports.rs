//! Ports of one pod that are in each other's way.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerPort;

use crate::field::Path;

/// The ports of all containers, by number and protocol.
#[derive(Default)]
pub(super) struct Ports<'a> {
    seen: BTreeMap<(i32, &'a str), Vec<(Path, &'a ContainerPort)>>,
    told: Vec<String>,
}

impl<'a> Ports<'a> {
    pub(super) fn add(&mut self, ports: &'a [ContainerPort], path: &Path) {
        for (i, port) in ports.iter().enumerate() {
            let path = path.index(i);
            if !host_ip(port).is_empty() && host_port(port) == 0 {
                self.told.push(format!("{path}: hostIP set without hostPort: {}", as_go_prints(port)));
            }
            let others = self.seen.entry((port.container_port, protocol(port))).or_default();
            for (other_path, other) in others.iter() {
                if let Some(how) = clash(port, other) {
                    self.told.push(format!("{path}: {how} port definition with {other_path}"));
                }
            }
            others.push((path, port));
        }
    }

    /// What is odd about them.
    pub(super) fn into_told(self) -> Vec<String> {
        self.told
    }
}

fn host_ip(port: &ContainerPort) -> &str {
    port.host_ip.as_deref().unwrap_or_default()
}

fn host_port(port: &ContainerPort) -> i32 {
    port.host_port.unwrap_or_default()
}

fn protocol(port: &ContainerPort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn clash(port: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let (a, b) = (host_port(port), host_port(other));
    if host_ip(port) == host_ip(other) && a == b {
        Some("duplicate")
    } else if a == 0 || b == 0 {
        Some("overlapping")
    } else if a == b && host_ip(port).is_empty() != host_ip(other).is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn as_go_prints(port: &ContainerPort) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.name.as_deref().unwrap_or_default(),
        host_port(port),
        port.container_port,
        protocol(port),
        host_ip(port)
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::json;

    use super::super::of;
    use super::*;
    use crate::kind::Pods;

    #[test]
    fn ports_that_are_said_twice_are_told() {
        let spec: PodSpec = serde_json::from_value(json!({"initContainers": [{"name": "i", "ports": [{"containerPort": 80}]}],
            "containers": [{"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 81, "hostPort": 81}, {"containerPort": 81, "hostPort": 81, "hostIP": "127.0.0.1"},
                {"containerPort": 82, "hostIP": "127.0.0.1"}]}]}))
        .unwrap();
        assert_eq!(
            of(&Pods { meta: None, spec: &spec, path: Path::default() }),
            [
                "spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]",
                "spec.containers[0].ports[1]: overlapping port definition with spec.initContainers[0].ports[0]",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[3]: dangerously ambiguous port definition with spec.containers[0].ports[2]",
                "spec.containers[0].ports[4]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:82 Protocol:TCP HostIP:127.0.0.1}",
            ]
        );
    }
}
