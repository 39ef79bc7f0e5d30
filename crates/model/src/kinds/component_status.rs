//! ComponentStatus: how the parts of the control plane are. Not stored: made when somebody asks.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{ComponentCondition, ComponentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::cells::or_empty;
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

impl Kind for ComponentStatus {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["cs"],
        deprecated: Some("v1 ComponentStatus is deprecated in v1.19+"),
        columns: &[Column::NAME, Column::text("Status"), Column::text("Message"), Column::text("Error")],
        ..Descriptor::cluster(
            "",
            "v1",
            "ComponentStatus",
            "componentstatuses",
            "componentstatus",
            "core.v1.ComponentStatus",
        )
    };

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        let healthy = self.conditions.iter().flatten().find(|condition| condition.type_ == "Healthy");
        let status = match healthy {
            Some(healthy) if healthy.status == "True" => "Healthy",
            _ => "Unhealthy",
        };
        let text = |of: fn(&ComponentCondition) -> Option<&String>| {
            or_empty(healthy.and_then(of).map(String::as_str))
        };
        vec![
            Cell::name(self.metadata()),
            Cell::text(status),
            text(|condition| condition.message.as_ref()),
            text(|condition| condition.error.as_ref()),
        ]
    }
}

/// A part, and what is wrong with it.
pub fn component(name: &str, problem: Option<&str>) -> ComponentStatus {
    let healthy = ComponentCondition {
        type_: "Healthy".to_owned(),
        status: if problem.is_none() { "True" } else { "False" }.to_owned(),
        message: Some(problem.unwrap_or("ok").to_owned()),
        error: None,
    };
    ComponentStatus {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        conditions: Some(vec![healthy]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_wrong() {
        let row = |problem| -> Vec<String> {
            let cells = component("scheduler", problem).row(Timestamp::UNIX_EPOCH);
            cells.iter().map(|cell| cell.0.as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(row(None), ["scheduler", "Healthy", "ok", ""]);
        assert_eq!(row(Some("no server leads")), ["scheduler", "Unhealthy", "no server leads", ""]);
    }
}
