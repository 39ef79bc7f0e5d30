//! Docker's own bridge networks.

use std::collections::HashMap;

use bollard::models as docker;
use bollard::query_parameters as query;

use super::errors::failed;
use super::{DockerRuntime, convert};
use crate::{Error, Network, NetworkConfig, Result};

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MTU: &str = "com.docker.network.driver.mtu";
const INTER_CONTAINER: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";

impl DockerRuntime {
    pub(super) async fn make_network(&self, config: &NetworkConfig) -> Result<Network> {
        // Older engines make a second network of the same name without a word.
        if self.networks(&[]).await?.iter().any(|network| network.name == config.name) {
            return Err(Error::Conflict { message: format!("network {} already exists", config.name) });
        }
        let created = self.docker.create_network(request(config)).await.map_err(failed)?;
        Ok(Network {
            id: created.id,
            name: config.name.clone(),
            driver: "bridge".to_owned(),
            bridge: config.bridge.clone(),
            subnet: config.subnet.clone(),
            gateway: config.gateway,
            labels: config.labels.clone(),
        })
    }

    pub(super) async fn delete_network(&self, name: &str) -> Result<()> {
        match self.docker.remove_network(name).await.map_err(failed) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    pub(super) async fn networks(&self, labels: &[(String, String)]) -> Result<Vec<Network>> {
        let filters = [("label".to_owned(), convert::label_filter(labels))].into();
        let options = query::ListNetworksOptionsBuilder::default().filters(&filters).build();
        let found = self.docker.list_networks(Some(options)).await.map_err(failed)?;
        Ok(found.into_iter().map(network).collect())
    }
}

fn request(config: &NetworkConfig) -> docker::NetworkCreateRequest {
    let mut options = HashMap::from([
        (INTER_CONTAINER.to_owned(), config.inter_container.to_string()),
        (MASQUERADE.to_owned(), config.masquerade.to_string()),
    ]);
    if !config.bridge.is_empty() {
        options.insert(BRIDGE_NAME.to_owned(), config.bridge.clone());
    }
    if let Some(mtu) = config.mtu {
        options.insert(MTU.to_owned(), mtu.to_string());
    }
    docker::NetworkCreateRequest {
        name: config.name.clone(),
        driver: Some("bridge".to_owned()),
        ipam: Some(docker::Ipam {
            config: Some(vec![docker::IpamConfig {
                subnet: Some(config.subnet.clone()),
                gateway: config.gateway.map(|address| address.to_string()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        options: Some(options),
        labels: Some(config.labels.clone().into_iter().collect()),
        ..Default::default()
    }
}

fn network(found: docker::Network) -> Network {
    let ipam = found.ipam.and_then(|ipam| ipam.config).and_then(|list| list.into_iter().next());
    let ipam = ipam.unwrap_or_default();
    Network {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default(),
        driver: found.driver.unwrap_or_default(),
        bridge: found.options.unwrap_or_default().remove(BRIDGE_NAME).unwrap_or_default(),
        subnet: ipam.subnet.unwrap_or_default(),
        gateway: ipam.gateway.and_then(|address| address.parse().ok()),
        labels: found.labels.unwrap_or_default().into_iter().collect(),
    }
}
