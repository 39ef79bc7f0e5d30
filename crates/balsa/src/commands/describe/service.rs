//! A Service, as `kubectl describe` shows it.

use std::sync::Arc;

use balsa_model::Object;
use serde_json::Value;

use super::head;
use super::page::{Page, items, number, or_none, pairs, plain, text};

/// So many endpoints are told of a port.
const ENDPOINTS_SHOWN: usize = 3;

pub(super) fn describe(page: &mut Page, object: &Object, slices: &[Arc<Object>]) {
    let service = &object.value();
    let slices: Vec<Value> = slices.iter().map(|slice| slice.value()).collect();
    head::name(page, object);
    head::labels_and_annotations(page, object);
    page.field(0, "Selector", or_none(&pairs(service, "/spec/selector").join(",")));
    page.field(0, "Type", text(service, "/spec/type"));
    page.field_if(0, "IP Family Policy", text(service, "/spec/ipFamilyPolicy"));
    let joined = |pointer: &str| items(service, pointer).iter().map(plain).collect::<Vec<_>>().join(",");
    page.field(0, "IP Families", or_none(&joined("/spec/ipFamilies")));
    page.field(0, "IP", text(service, "/spec/clusterIP"));
    page.field(0, "IPs", or_none(&joined("/spec/clusterIPs")));
    page.field_if(0, "External IPs", &joined("/spec/externalIPs"));
    page.field_if(0, "External Name", text(service, "/spec/externalName"));
    for port in items(service, "/spec/ports") {
        let name = Some(text(port, "/name")).filter(|name| !name.is_empty()).unwrap_or("<unset>");
        let protocol = text(port, "/protocol");
        page.field(0, "Port", format!("{name}\t{}/{protocol}", number(port, "/port")));
        page.field(0, "TargetPort", format!("{}/{protocol}", plain(&port["targetPort"])));
        if number(port, "/nodePort") != 0 {
            page.field(0, "NodePort", format!("{name}\t{}/{protocol}", number(port, "/nodePort")));
        }
        page.field(0, "Endpoints", endpoints(&slices, text(port, "/name")));
    }
    page.field(0, "Session Affinity", text(service, "/spec/sessionAffinity"));
    page.field_if(0, "External Traffic Policy", text(service, "/spec/externalTrafficPolicy"));
    page.field_if(0, "Internal Traffic Policy", text(service, "/spec/internalTrafficPolicy"));
}

/// The addresses at which a port is served, ready ones only.
fn endpoints(slices: &[Value], port_name: &str) -> String {
    let mut found = Vec::new();
    for slice in slices {
        for port in items(slice, "/ports").iter().filter(|port| text(port, "/name") == port_name) {
            let is_ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") != Some(&false.into());
            for endpoint in items(slice, "/endpoints").iter().filter(is_ready) {
                let addresses = items(endpoint, "/addresses").iter();
                found
                    .extend(addresses.map(|address| format!("{}:{}", plain(address), number(port, "/port"))));
            }
        }
    }
    let shown = found.iter().take(ENDPOINTS_SHOWN).cloned().collect::<Vec<_>>().join(",");
    match found.len().saturating_sub(ENDPOINTS_SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}
