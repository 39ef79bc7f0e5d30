//! LimitRange: how much one thing of a namespace may have, and what it gets when it does not say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};

use super::cells::{CREATED_AT, created_at};
use super::pod_spec::resources::{ResourceList, canonical_list};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::quantity::Quantity;
use crate::table::{Cell, Column};

impl Kind for LimitRange {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["limits"],
        create_on_update: true,
        columns: &[Column::NAME, CREATED_AT],
        ..Descriptor::namespaced("", "v1", "LimitRange", "limitranges", "limitrange", "core.v1.LimitRange")
    };

    fn set_defaults(&mut self) {
        for item in &mut self.spec.get_or_insert_default().limits {
            set_item(item);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("limits");
        let mut types = BTreeSet::new();
        for (i, item) in self.spec.iter().flat_map(|s| &s.limits).enumerate() {
            let path = path.index(i);
            if !types.insert(item.type_.as_str()) {
                errors.duplicate(&path.child("type"), item.type_.as_str());
            }
            validate_item(item, &path, errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), created_at(self.metadata())]
    }
}

fn set_item(item: &mut LimitRangeItem) {
    for list in [
        &mut item.max,
        &mut item.min,
        &mut item.default,
        &mut item.default_request,
        &mut item.max_limit_request_ratio,
    ]
    .into_iter()
    .flatten()
    {
        canonical_list(list);
    }
    if item.type_ != "Container" {
        return;
    }
    let (max, min) = (item.max.clone().unwrap_or_default(), item.min.clone().unwrap_or_default());
    let mut limits = item.default.clone().unwrap_or_default();
    fill(&mut limits, &max);
    let mut requests = item.default_request.clone().unwrap_or_default();
    fill(&mut requests, &limits);
    fill(&mut requests, &min);
    item.default = Some(limits).filter(|list| !list.is_empty());
    item.default_request = Some(requests).filter(|list| !list.is_empty());
}

fn fill(list: &mut ResourceList, from: &ResourceList) {
    for (name, amount) in from {
        list.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut FieldErrors) {
    if item.type_ == "Pod" {
        for (field, list) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if list.as_ref().is_some_and(|list| !list.is_empty()) {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    let lists = [&item.max, &item.min, &item.default, &item.default_request];
    let names: BTreeSet<&String> = lists.into_iter().flatten().flat_map(|list| list.keys()).collect();
    for name in names {
        let of = |list: &Option<ResourceList>| list.as_ref().and_then(|l| l.get(name)).and_then(Quantity::of);
        let (max, min) = (of(&item.max), of(&item.min));
        let (limit, request) = (of(&item.default), of(&item.default_request));
        let rules = [
            ("min", min, "min value", max, "max value"),
            ("defaultRequest", min, "min value", request, "default request value"),
            ("defaultRequest", request, "default request value", max, "max value"),
            ("defaultRequest", request, "default request value", limit, "default limit value"),
            ("default", min, "min value", limit, "default value"),
            ("default", limit, "default value", max, "max value"),
        ];
        for (field, low, low_name, high, high_name) in rules {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let detail = format!("{low_name} {low} is greater than {high_name} {high}");
                errors.invalid(&path.child(field).key(name), low.to_string(), detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_follow_from_each_other() {
        let mut range: LimitRange =
            serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {"limits":
            [{"type": "Container", "max": {"cpu": "2"}, "default": {"memory": "1Gi"}}]}}))
            .unwrap();
        Kind::set_defaults(&mut range);
        assert_eq!(
            serde_json::to_value(&range.spec).unwrap()["limits"][0],
            json!({"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "2", "memory": "1Gi"},
                "defaultRequest": {"cpu": "2", "memory": "1Gi"}})
        );
    }

    #[test]
    fn the_least_is_not_more_than_the_most() {
        let range: LimitRange = serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {"limits":
            [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}}))
        .unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&range, &mut errors);
        assert_eq!(
            errors.into_vec()[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }
}
