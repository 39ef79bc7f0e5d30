//! PriorityLevelConfiguration: how many requests of a level are worked on at a time, and what becomes of the
//! others. Invariants: `exempt` alone is exempt; of it and `catch-all` only what may be lent changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration,
    PriorityLevelConfiguration, PriorityLevelConfigurationSpec, PriorityLevelConfigurationStatus,
    QueuingConfiguration,
};
use serde_json::json;

use super::cells::or_none;
use super::check::{default_number, in_range, json as shown, one_of};
use super::flow_schema::{CATCH_ALL, EXEMPT, validate_condition_types};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta;
use crate::table::{Cell, Column};

const MOST_QUEUES: i32 = 10_000_000;
/// Of the hash by which Kubernetes deals a flow its queues.
const HASH_BITS: f64 = 60.0;

impl Kind for PriorityLevelConfiguration {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        subresources: &[Subresource::Status],
        columns: &[
            Column::NAME,
            Column::text("Type"),
            Column::text("NominalConcurrencyShares"),
            Column::text("Queues"),
            Column::text("HandSize"),
            Column::text("QueueLengthLimit"),
            Column::AGE,
        ],
        ..Descriptor::cluster(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
            "flowcontrol.v1.PriorityLevelConfiguration",
        )
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            default_number(&mut exempt.nominal_concurrency_shares, 0);
            default_number(&mut exempt.lendable_percent, 0);
        }
        if let Some(limited) = &mut spec.limited {
            default_number(&mut limited.nominal_concurrency_shares, 30);
            default_number(&mut limited.lendable_percent, 0);
            if let Some(queuing) = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut()) {
                default_number(&mut queuing.hand_size, 8);
                default_number(&mut queuing.queues, 64);
                default_number(&mut queuing.queue_length_limit, 50);
            }
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(PriorityLevelConfigurationStatus::default());
    }

    fn prepare_part(&mut self, old: &Self, _part: Subresource) {
        meta::keep(&mut self.metadata, &old.metadata);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let (spec, path) = (self.spec.clone().unwrap_or_default(), Path::new("spec"));
        validate_spec(name, &spec, &path, errors);
        let Some(mut fixed) = mandatory(name) else { return };
        let mut but = "";
        if name == EXEMPT {
            fixed.exempt.clone_from(&spec.exempt);
            but = " except the 'spec.exempt' field";
        }
        if fixed != spec {
            errors.invalid(&path, shown(&spec), format!("spec of '{name}'{but} must equal the fixed value"));
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        validate_condition_types(conditions.map(|condition| condition.type_.as_deref()), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.clone().unwrap_or_default();
        let limited = spec.limited.as_ref();
        let queuing = limited.and_then(|l| l.limit_response.as_ref()).and_then(|r| r.queuing.as_ref());
        let number = |number: Option<i32>| number.map_or_else(|| or_none(None), Cell::number);
        vec![
            Cell::name(self.metadata()),
            Cell::text(spec.type_.as_str()),
            number(limited.and_then(|l| l.nominal_concurrency_shares)),
            number(queuing.and_then(|q| q.queues)),
            number(queuing.and_then(|q| q.hand_size)),
            number(queuing.and_then(|q| q.queue_length_limit)),
            Cell::age(self.metadata(), now),
        ]
    }
}

/// What a level that every cluster must have looks like; `None` for all others.
pub fn mandatory(name: &str) -> Option<PriorityLevelConfigurationSpec> {
    let spec = match name {
        EXEMPT => json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        CATCH_ALL => json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
        }}),
        _ => return None,
    };
    serde_json::from_value(spec).ok()
}

fn validate_spec(name: &str, spec: &PriorityLevelConfigurationSpec, path: &Path, errors: &mut FieldErrors) {
    let (type_, at) = (spec.type_.as_str(), path.child("type"));
    if (name == EXEMPT) != (type_ == "Exempt") {
        errors.invalid(&at, type_, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    let (limited, exempt) = (path.child("limited"), path.child("exempt"));
    match type_ {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.forbidden(&limited, "must be nil if the type is not Limited");
            }
            if let Some(config) = &spec.exempt {
                validate_exempt(config, &exempt, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.forbidden(&exempt, "must be nil if the type is Limited");
            }
            match &spec.limited {
                None => errors.required(&limited, "must not be empty when type is Limited"),
                Some(config) => validate_limited(config, &limited, errors),
            }
        }
        _ => one_of(errors, &at, type_, &["Exempt", "Limited"]),
    }
}

fn validate_shares(shares: Option<i32>, lendable: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    let shares = shares.unwrap_or_default();
    if shares < 0 {
        let detail = "must be a non-negative integer";
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, detail);
    }
    if let Some(lendable) = lendable {
        in_range(errors, &path.child("lendablePercent"), lendable, 0, 100);
    }
}

fn validate_exempt(config: &ExemptPriorityLevelConfiguration, path: &Path, errors: &mut FieldErrors) {
    validate_shares(config.nominal_concurrency_shares, config.lendable_percent, path, errors);
}

fn validate_limited(config: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut FieldErrors) {
    validate_shares(config.nominal_concurrency_shares, None, path, errors);
    let response = config.limit_response.clone().unwrap_or_default();
    validate_response(&response, &path.child("limitResponse"), errors);
    validate_shares(None, config.lendable_percent, path, errors);
    if let Some(limit) = config.borrowing_limit_percent.filter(|limit| *limit < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), limit, detail);
    }
}

fn validate_response(response: &LimitResponse, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errors.required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => validate_queuing(queuing, &at, errors),
        ("Reject", None) => {}
        (other, _) => one_of(errors, &path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path, errors: &mut FieldErrors) {
    let (queues, hand) = (queuing.queues.unwrap_or_default(), queuing.hand_size.unwrap_or_default());
    let length = queuing.queue_length_limit.unwrap_or_default();
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MOST_QUEUES {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    let bits = (f64::from(queues).log2() * f64::from(hand)).ceil();
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else if bits > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(&at, hand, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn wrong(name: &str, spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let mut level: PriorityLevelConfiguration = serde_json::from_value(object).unwrap();
        Kind::set_defaults(&mut level);
        let mut errors = FieldErrors::new();
        Kind::validate(&level, &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    fn queue(queuing: Value) -> Value {
        json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}})
    }

    #[test]
    fn limits_are_checked_in_kubernetes_words() {
        assert_eq!(wrong("l", queue(json!({}))), [""; 0]);
        let cases = [
            (json!({"type": "Exempt"}), "type must be 'Exempt' if and only if name is 'exempt'"),
            (
                json!({"type": "Limited"}),
                "spec.limited: Required value: must not be empty when type is Limited",
            ),
            (
                json!({"type": "Limited", "limited": {}}),
                "spec.limited.limitResponse.type: Unsupported value: \"\": supported values: \"Queue\", \"Reject\"",
            ),
            (
                json!({"type": "Limited", "limited": {"nominalConcurrencyShares": -1,
                "limitResponse": {"type": "Reject"}}}),
                "must be a non-negative integer",
            ),
            (
                json!({"type": "Limited", "limited": {"lendablePercent": 101,
                "limitResponse": {"type": "Reject"}}}),
                "must be between 0 and 100, inclusive",
            ),
            (queue(json!({"queues": 4, "handSize": 5})), "should not be greater than queues (4)"),
            (
                queue(json!({"queues": 1024, "handSize": 7})),
                "required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60",
            ),
        ];
        for (spec, said) in cases {
            let all = wrong("l", spec);
            assert!(all.len() == 1 && all[0].ends_with(said), "{all:?}: {said}");
        }
    }

    #[test]
    fn of_the_exempt_level_only_what_it_lends_changes() {
        let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7}});
        assert_eq!(wrong(EXEMPT, exempt), [""; 0]);
        let fixed = serde_json::to_value(mandatory(CATCH_ALL).unwrap()).unwrap();
        assert_eq!(wrong(CATCH_ALL, fixed.clone()), [""; 0]);
        let mut other = fixed;
        other["limited"]["nominalConcurrencyShares"] = 6.into();
        assert!(wrong(CATCH_ALL, other)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    }
}
