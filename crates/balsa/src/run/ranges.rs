//! The addresses and ports that a cluster takes on this machine.
//!
//! Several clusters may share a machine when their pods, Services and node ports do not overlap. What is
//! given is taken as it is; what is left open is chosen so that nobody has it yet, and written down in the
//! data directory, because a cluster cannot move.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, bail};
use balsa_net::pod::{Occupied, occupied};
use balsa_net::{Lease, Netns};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{layout, node};
use crate::settings::{Cidr, PortRange, ServerSettings};

/// So many clusters find a place on a machine by themselves.
const PLACES: u8 = 8;

/// Addresses and ports of a cluster, as far as somebody has said which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Ranges {
    /// Addresses of pods.
    pub(crate) cluster_cidr: Option<Cidr>,
    /// Addresses of Services.
    pub(crate) service_cidr: Option<Cidr>,
    /// Ports of NodePort Services.
    pub(crate) service_node_port_range: Option<PortRange>,
}

/// The right to the ranges, as long as the cluster runs.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "dropping the leases gives the ranges back")] Vec<Lease>);

/// All of it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    pods: Ipv4Net,
    services: Ipv4Net,
    ports: PortRange,
}

impl Ranges {
    /// `self`, and where it says nothing, `other`.
    fn or(self, other: Self) -> Self {
        Self {
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            service_cidr: self.service_cidr.or(other.service_cidr),
            service_node_port_range: self.service_node_port_range.or(other.service_node_port_range),
        }
    }

    /// The n-th place, where it leaves things open. The first has Kubernetes' usual ranges.
    fn place(self, n: u8) -> Place {
        let range = |second: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16);
        let first = 30_000 - 2_000 * u16::from(n);
        let ports = PortRange(first, if n == 0 { 32_767 } else { first + 1_999 });
        Place {
            pods: self.cluster_cidr.map_or_else(|| range(244 + n), |cidr| cidr.0),
            services: self.service_cidr.map_or_else(|| range(96 + n), |cidr| cidr.0),
            ports: self.service_node_port_range.unwrap_or(ports),
        }
    }

    /// Nothing is open any more.
    fn is_settled(self) -> bool {
        self.cluster_cidr.is_some() && self.service_cidr.is_some() && self.service_node_port_range.is_some()
    }
}

impl From<Place> for Ranges {
    fn from(place: Place) -> Self {
        Self {
            cluster_cidr: Some(Cidr(place.pods)),
            service_cidr: Some(Cidr(place.services)),
            service_node_port_range: Some(place.ports),
        }
    }
}

impl Place {
    /// Who is in the way, as the words after "it is used by".
    fn obstacle(&self, own: Option<&str>, occupied: &[Occupied]) -> Option<String> {
        for (range, flag) in [(self.pods, "--cluster-cidr"), (self.services, "--service-cidr")] {
            let overlaps = |other: &Ipv4Net| range.contains(other) || other.contains(&range);
            let foreign = |used: &&Occupied| used.cluster.is_none() || used.cluster.as_deref() != own;
            let Some(used) = occupied.iter().filter(foreign).find(|used| overlaps(&used.range)) else {
                continue;
            };
            let who = match &used.cluster {
                Some(cluster) => {
                    let link = &used.link;
                    format!("cluster {cluster} (bridge {link}; if that is no more: ip link delete {link})")
                }
                None => format!("a network of this machine ({} on {})", used.range, used.link),
            };
            return Some(format!("{range} is used by {who}; choose other addresses with {flag}"));
        }
        None
    }

    /// Holds all ranges, or says which one another running cluster holds.
    async fn hold(&self) -> anyhow::Result<Result<Held, String>> {
        let mut leases = Vec::new();
        for (name, flag) in [
            (self.pods.to_string(), "--cluster-cidr"),
            (self.services.to_string(), "--service-cidr"),
            (format!("ports {}", self.ports), "--service-node-port-range"),
        ] {
            match Lease::take(&Netns::Current, &format!("range/{name}")).await? {
                Some(lease) => leases.push(lease),
                None => {
                    return Ok(Err(format!(
                        "{name} is used by another cluster that runs on this machine; choose another range with {flag}"
                    )));
                }
            }
        }
        Ok(Ok(Held(leases)))
    }
}

/// Decides the ranges of the cluster on a data directory and holds them: those given, else those it had
/// before, else the first that are free.
pub(crate) async fn settle(server: &mut ServerSettings, given: Ranges) -> anyhow::Result<Held> {
    let directory = server.data_dir.clone();
    let mut wanted = given;
    if let Some(kept) = read(&directory)? {
        wanted = given.or(kept);
    } else if layout::is_cluster(&directory) {
        // A cluster from before ranges were written down.
        wanted = given.or(Ranges::default().place(0).into());
    }
    let own = own_name(&directory)?;
    let occupied = occupied(&Netns::Current).await?;
    let mut trouble = None;
    for n in 0..if wanted.is_settled() { 1 } else { PLACES } {
        let place = wanted.place(n);
        if let Some(obstacle) = place.obstacle(own.as_deref(), &occupied) {
            trouble.get_or_insert(obstacle);
            continue;
        }
        match place.hold().await? {
            Ok(held) => {
                write(&directory, place.into())?;
                server.cluster_cidr = Cidr(place.pods);
                server.service_cidr = Cidr(place.services);
                server.service_node_port_range = place.ports;
                return Ok(held);
            }
            Err(obstacle) => {
                trouble.get_or_insert(obstacle);
            }
        }
    }
    bail!("{}", trouble.unwrap_or_default())
}

/// Refuses to make a node's network where another cluster has the addresses of its pods already.
pub(crate) async fn check_node(cluster: &str, pods: Ipv4Net, services: Ipv4Net) -> anyhow::Result<()> {
    let place = Place { pods, services, ports: PortRange(1, 1) };
    let mut occupied = occupied(&Netns::Current).await?;
    // Routes of the machine that nobody of ours made may lead to this very cluster.
    occupied.retain(|used| used.cluster.is_some());
    place.obstacle(Some(cluster), &occupied).map_or(Ok(()), |obstacle| bail!("{obstacle}"))
}

/// What the cluster on a directory is called, if there is one yet.
fn own_name(directory: &Path) -> anyhow::Result<Option<String>> {
    let ca = std::fs::read_to_string(directory.join(layout::PKI).join("ca.crt")).ok();
    ca.map(|ca| node::cluster_name(&ca)).transpose()
}

fn read(directory: &Path) -> anyhow::Result<Option<Ranges>> {
    let path = directory.join(layout::RANGES);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_yaml_ng::from_str(&text).map(Some).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write(directory: &Path, ranges: Ranges) -> anyhow::Result<()> {
    let path = directory.join(layout::RANGES);
    std::fs::write(&path, serde_yaml_ng::to_string(&ranges)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn used(range: &str, cluster: Option<&str>) -> Occupied {
        Occupied {
            range: range.parse().unwrap(),
            link: "balsa-1".to_owned(),
            cluster: cluster.map(str::to_owned),
        }
    }

    #[test]
    fn places_do_not_overlap() {
        let places: Vec<Place> = (0..PLACES).map(|n| Ranges::default().place(n)).collect();
        for (n, place) in places.iter().enumerate() {
            for other in &places[..n] {
                assert!(!place.pods.contains(&other.pods) && !place.services.contains(&other.services));
                assert!(place.ports.1 < other.ports.0, "{place:?} {other:?}");
            }
        }
        assert_eq!(places[0].ports.to_string(), "30000-32767");
    }

    #[test]
    fn what_is_given_stays() {
        let given = Ranges { service_cidr: Some("10.9.0.0/16".parse().unwrap()), ..Ranges::default() };
        let place = given.place(1);
        assert_eq!(
            (place.services.to_string(), place.pods.to_string()),
            ("10.9.0.0/16".into(), "10.245.0.0/16".into())
        );
        assert!(Ranges::from(place).is_settled());
    }

    #[test]
    fn others_are_in_the_way_and_oneself_is_not() {
        let place = Ranges::default().place(0);
        assert_eq!(place.obstacle(Some("me"), &[used("10.244.1.0/24", Some("me"))]), None);
        assert_eq!(place.obstacle(None, &[used("10.240.0.0/16", None)]), None);
        let said = place.obstacle(None, &[used("10.244.1.0/24", Some("you"))]).unwrap();
        assert!(said.contains("cluster you") && said.contains("--cluster-cidr"), "{said}");
        let said = place.obstacle(Some("me"), &[used("10.96.0.0/12", None)]).unwrap();
        assert!(said.contains("10.96.0.0/12 on balsa-1") && said.contains("--service-cidr"), "{said}");
    }

    #[tokio::test]
    async fn two_clusters_at_the_same_time_get_different_places() {
        let place = Place {
            pods: "10.201.0.0/16".parse().unwrap(),
            services: "10.202.0.0/16".parse().unwrap(),
            ports: PortRange(1, 2),
        };
        let held = place.hold().await.unwrap().unwrap();
        let refused = place.hold().await.unwrap().unwrap_err();
        assert!(refused.contains("10.201.0.0/16") && refused.contains("--cluster-cidr"), "{refused}");
        drop(held);
        assert!(place.hold().await.unwrap().is_ok());
    }
}
