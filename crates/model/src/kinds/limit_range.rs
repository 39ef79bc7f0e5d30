//! LimitRange: how much one thing of a namespace may have, and what it gets when it does not say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};

use super::cells::{CREATED_AT, created_at};
use super::check::invalid_each;
use super::pod_spec::resources::{
    ResourceList, canonical_list, is_standard, validate_amount, validate_entry,
};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::qualified_name;
use crate::quantity::Quantity;
use crate::table::{Cell, Column};

/// The type of limits for claims of storage.
const CLAIM: &str = "PersistentVolumeClaim";

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
            validate_type(&item.type_, &path.child("type"), errors);
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

fn validate_type(type_: &str, path: &Path, errors: &mut FieldErrors) {
    let wrong = qualified_name(type_);
    if wrong.is_empty() && !type_.contains('/') && !["Pod", "Container", CLAIM].contains(&type_) {
        errors.invalid(path, type_, "must be a standard limit type or fully qualified");
    }
    invalid_each(errors, path, type_, wrong);
}

/// Checks names and amounts.
fn validate_list(type_: &str, list: Option<&ResourceList>, path: &Path, errors: &mut FieldErrors) {
    for (name, amount) in list.into_iter().flatten() {
        let path = path.key(name);
        if matches!(type_, "Pod" | "Container") {
            validate_entry(name, amount, &path, errors);
            continue;
        }
        invalid_each(errors, &path, name, qualified_name(name));
        if !name.contains('/') && !is_standard(name) {
            errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
        }
        validate_amount(amount, false, &path, errors);
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut FieldErrors) {
    for (field, list) in [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ] {
        validate_list(&item.type_, list.as_ref(), &path.child(field), errors);
    }
    let says_size = [&item.max, &item.min].into_iter().flatten().any(|list| list.contains_key("storage"));
    if item.type_ == CLAIM && !says_size {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
    validate_ratios(item, path, errors);
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

/// A limit is no less than its request, and what is allowed apart from that follows from least and most.
fn validate_ratios(item: &LimitRangeItem, path: &Path, errors: &mut FieldErrors) {
    for (name, amount) in item.max_limit_request_ratio.iter().flatten() {
        let path = path.child("maxLimitRequestRatio").key(name);
        let of = |list: &Option<ResourceList>| list.as_ref().and_then(|l| l.get(name)).and_then(Quantity::of);
        let Some(ratio) = Quantity::of(amount) else { continue };
        if ratio < Quantity::from_units(1) {
            errors.invalid(&path, ratio.to_string(), format!("ratio {ratio} is less than 1"));
        }
        let (Some(max), Some(min)) = (of(&item.max), of(&item.min)) else { continue };
        let most = as_float(max) / as_float(min);
        if as_float(ratio) > most {
            let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errors.invalid(&path, ratio.to_string(), detail);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is not exact")]
fn as_float(amount: Quantity) -> f64 {
    amount.milli() as f64
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
    fn types_names_and_ratios_are_checked() {
        let wrong = |item: serde_json::Value| {
            let range: LimitRange = serde_json::from_value(json!({"spec": {"limits": [item]}})).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&range, &mut errors);
            errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})).is_empty());
        assert!(wrong(json!({"type": "example.com/thing"})).is_empty());
        for (item, starts) in [
            (json!({"type": "Node"}), "spec.limits[0].type: Invalid value: \"Node\": must be a standard"),
            (json!({"type": "PersistentVolumeClaim"}), "spec.limits[0].limits: Required value: either"),
            (
                json!({"type": "Pod", "max": {"gold": "1"}}),
                "spec.limits[0].max[gold]: Invalid value: \"gold\"",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
        ] {
            let told = wrong(item);
            assert!(told[0].starts_with(starts), "{told:?}");
        }
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
