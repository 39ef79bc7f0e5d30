//! When a Job counts as failed or as done before its time: checks of its policies.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicyRule,
};

use crate::field::{CauseKind, FieldErrors, Path};
use crate::kinds::check::{json, label_key, one_of};

const MOST_RULES: usize = 20;
const MOST_PATTERNS: usize = 20;
const MOST_VALUES: usize = 255;
const MOST_INDEXES_TEXT: usize = 64 * 1024;
const MOST_INDEXES: i32 = 100_000;

/// Leaves no status of a pattern open.
pub(super) fn set_defaults(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        if pattern.status.is_empty() {
            "True".clone_into(&mut pattern.status);
        }
    }
}

/// Checks what a Job says about indexes, failures and success.
pub(super) fn validate(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    validate_indexes(spec, path, errors);
    validate_failure(spec, path, errors);
    let replacement = path.child("podReplacementPolicy");
    let known: &[&str] =
        if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if let Some(policy) = &spec.pod_replacement_policy {
        one_of(errors, &replacement, policy, known);
    }
    let Some(success) = &spec.success_policy else { return };
    let at = path.child("successPolicy");
    if !is_indexed(spec) {
        return errors.invalid(&at, json(success), "requires indexed completion mode");
    }
    if success.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&at.child("rules"), detail);
    }
    if success.rules.len() > MOST_RULES {
        errors.too_many(&at.child("rules"), success.rules.len(), MOST_RULES);
    }
    for (i, rule) in success.rules.iter().enumerate() {
        let completions = spec.completions.unwrap_or_default();
        validate_success_rule(rule, completions, &at.child("rules").index(i), errors);
    }
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn validate_indexes(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    let (limit, most) = (path.child("backoffLimitPerIndex"), path.child("maxFailedIndexes"));
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&limit, "when maxFailedIndexes is specified");
    }
    if !is_indexed(spec) {
        for (path, number) in [(&limit, spec.backoff_limit_per_index), (&most, spec.max_failed_indexes)] {
            if let Some(number) = number {
                errors.invalid(path, number, "requires indexed completion mode");
            }
        }
        return;
    }
    let too_high = format!("must be less than or equal to {MOST_INDEXES}");
    if let Some(parallelism) = spec.parallelism.filter(|parallelism| *parallelism > MOST_INDEXES) {
        let detail = format!("{too_high} when completion mode is Indexed");
        errors.invalid(&path.child("parallelism"), parallelism, detail);
    }
    let Some(failed) = spec.max_failed_indexes else { return };
    if spec.completions.is_some_and(|completions| failed > completions) {
        errors.invalid(&most, failed, "must be less than or equal to completions");
    }
    if failed > MOST_INDEXES {
        errors.invalid(&most, failed, too_high);
    }
}

fn validate_failure(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    let restart = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let for_never = [
        ("podFailurePolicy", spec.pod_failure_policy.is_some()),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.is_some()),
    ];
    for (field, _) in for_never.into_iter().filter(|(_, there)| *there) {
        // Without one there is another error already.
        if restart.is_some_and(|restart| restart == "OnFailure") {
            let at = path.child("template").child("spec").child("restartPolicy");
            errors.invalid(&at, restart, format!("only \"Never\" is supported when {field} is specified"));
        }
    }
    let Some(policy) = &spec.pod_failure_policy else { return };
    let path = path.child("podFailurePolicy").child("rules");
    if policy.rules.len() > MOST_RULES {
        errors.too_many(&path, policy.rules.len(), MOST_RULES);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        validate_failure_rule(spec, rule, &path.index(i), errors);
    }
}

/// Refuses a value that is missing or is none of `known`.
fn required_of(errors: &mut FieldErrors, path: &Path, value: &str, known: &[&str]) {
    if value.is_empty() {
        let known: Vec<String> = known.iter().map(|known| format!("{known:?}")).collect();
        errors.required(path, format!("valid values: [{}]", known.join(" ")));
    } else {
        one_of(errors, path, value, known);
    }
}

fn validate_failure_rule(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path, errors: &mut FieldErrors) {
    let action = path.child("action");
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        errors.invalid(&action, "FailIndex", "requires the backoffLimitPerIndex to be set");
    } else {
        required_of(errors, &action, &rule.action, &["Count", "FailIndex", "FailJob", "Ignore"]);
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        validate_exit_codes(spec, codes, &path.child("onExitCodes"), errors);
    }
    if patterns.len() > MOST_PATTERNS {
        errors.too_many(&path.child("onPodConditions"), patterns.len(), MOST_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        validate_pattern(pattern, &path.child("onPodConditions").index(i), errors);
    }
    let wrong = match (rule.on_exit_codes.is_some(), patterns.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.push(CauseKind::Invalid, path, String::new(), wrong);
}

fn validate_pattern(pattern: &PodFailurePolicyOnPodConditionsPattern, path: &Path, errors: &mut FieldErrors) {
    label_key(errors, &path.child("type"), &pattern.type_);
    required_of(errors, &path.child("status"), &pattern.status, &["False", "True", "Unknown"]);
}

fn validate_exit_codes(
    spec: &JobSpec,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    path: &Path,
    errors: &mut FieldErrors,
) {
    required_of(errors, &path.child("operator"), &codes.operator, &["In", "NotIn"]);
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.iter();
        let mut all = pod.flat_map(|pod| pod.containers.iter().chain(pod.init_containers.iter().flatten()));
        if !all.any(|container| container.name == *name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name.as_str(), detail);
        }
    }
    let (values, at) = (&codes.values, path.child("values"));
    if values.is_empty() {
        errors.invalid(&at, json(values), "at least one value is required");
    } else if values.len() > MOST_VALUES {
        errors.too_many(&at, values.len(), MOST_VALUES);
    }
    let mut seen = BTreeSet::new();
    for (i, value) in values.iter().enumerate() {
        if codes.operator == "In" && *value == 0 {
            errors.invalid(&at.index(i), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(value) {
            errors.duplicate(&at.index(i), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at, json(values), "must be ordered");
    }
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path, errors: &mut FieldErrors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut listed = None;
    if let Some(indexes) = &rule.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > MOST_INDEXES_TEXT {
            errors.too_long(&at, MOST_INDEXES_TEXT);
        }
        match count_indexes(indexes, completions) {
            Ok(count) => listed = Some(count),
            Err(why) => {
                listed = Some(0);
                errors.invalid(&at, indexes.as_str(), format!("error parsing succeededIndexes: {why}"));
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let at = path.child("succeededCount");
    if count <= 0 {
        errors.invalid(&at, count, "must be greater than 0");
    }
    let at_most =
        |most: i32, what: &str| format!("must be less than or equal to {most} (the number of {what})");
    if count > completions {
        errors.invalid(&at, count, at_most(completions, "specified completions"));
    }
    if let Some(listed) = listed.filter(|listed| count > *listed) {
        let what = "indexes in the specified succeededIndexes field";
        errors.invalid(&at, count, at_most(listed, what));
    }
}

/// How many indexes a text like `1,3-5` names, in order and below `completions`.
fn count_indexes(text: &str, completions: i32) -> Result<i32, String> {
    let index = |text: &str| -> Result<i32, String> {
        let not_a_number = |_| format!("cannot convert string to integer for index: {text:?}");
        let index = text.parse::<i32>().map_err(not_a_number)?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    let after = |previous: Option<i32>, current: i32| match previous {
        Some(previous) if previous >= current => {
            Err(format!("non-increasing order, previous: {previous}, current: {current}"))
        }
        _ => Ok(current),
    };
    let (mut last, mut count) = (None, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let parts: Vec<&str> = interval.split('-').collect();
        let (first, end) = match parts.as_slice() {
            [one] => (one, None),
            [first, end] => (first, Some(end)),
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        let first = after(last, index(first)?)?;
        let end = match end {
            Some(end) => after(Some(first), index(end)?)?,
            None => first,
        };
        count += end - first + 1;
        last = Some(end);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(extra: &Value) -> Vec<String> {
        let mut spec = json!({"completions": 5, "completionMode": "Indexed",
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut spec: JobSpec = serde_json::from_value(spec).unwrap();
        set_defaults(&mut spec);
        let mut errors = FieldErrors::new();
        validate(&spec, &Path::new("spec"), &mut errors);
        errors
            .into_vec()
            .iter()
            .map(|e| {
                e.to_string()
                    .replace("spec.podFailurePolicy.rules", "f")
                    .replace("spec.successPolicy.rules", "s")
            })
            .collect()
    }

    #[test]
    fn failure_policies_are_checked_in_kubernetes_words() {
        let rules = |rules: Value| wrong(&json!({"podFailurePolicy": {"rules": rules}}));
        let condition = json!([{"type": "DisruptionTarget"}]);
        assert_eq!(rules(json!([{"action": "Ignore", "onPodConditions": condition}])), [""; 0]);
        let codes = |operator: &str, values: Value| json!({"operator": operator, "values": values});
        let said = rules(json!([
            {"action": "", "onExitCodes": codes("In", json!([0, 3, 3, 1]))},
            {"action": "FailIndex", "onExitCodes": codes("", json!([]))},
            {"action": "Explode"},
            {"action": "Count", "onPodConditions": condition,
                "onExitCodes": {"containerName": "nobody", "operator": "NotIn", "values": [1]}},
        ]));
        assert_eq!(
            said,
            [
                "f[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "f[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "f[0].onExitCodes.values[2]: Duplicate value: 3",
                "f[0].onExitCodes.values: Invalid value: [0,3,3,1]: must be ordered",
                "f[1].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "f[1].onExitCodes.operator: Required value: valid values: [\"In\" \"NotIn\"]",
                "f[1].onExitCodes.values: Invalid value: []: at least one value is required",
                "f[2].action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "f[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "f[3].onExitCodes.containerName: Invalid value: \"nobody\": must be one of the container or initContainer names in the pod template",
                "f[3]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
            ]
        );
        let said =
            wrong(&json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed",
            "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}}));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].ends_with("only \"Never\" is supported when podFailurePolicy is specified"),
            "{said:?}"
        );
    }

    #[test]
    fn success_policies_are_checked_in_kubernetes_words() {
        let rules = |rules: Value| wrong(&json!({"successPolicy": {"rules": rules}}));
        assert_eq!(rules(json!([{"succeededIndexes": "0,2-4", "succeededCount": 4}])), [""; 0]);
        for (rule, said) in [
            (
                json!({}),
                "s[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ),
            (
                json!({"succeededCount": 6}),
                "must be less than or equal to 5 (the number of specified completions)",
            ),
            (json!({"succeededCount": 0}), "s[0].succeededCount: Invalid value: 0: must be greater than 0"),
            (
                json!({"succeededIndexes": "0-1", "succeededCount": 3}),
                "must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ),
            (json!({"succeededIndexes": "5"}), "error parsing succeededIndexes: too large index: \"5\""),
            (json!({"succeededIndexes": "x"}), "cannot convert string to integer for index: \"x\""),
            (json!({"succeededIndexes": "3,1"}), "non-increasing order, previous: 3, current: 1"),
            (json!({"succeededIndexes": "1-2-3"}), "at most two parts separated by '-'"),
        ] {
            let all = rules(json!([rule]));
            assert!(all.len() == 1 && all[0].ends_with(said), "{all:?}: {said}");
        }
        assert!(rules(json!([]))[0].contains("at least one rules must be specified"));
        let said = wrong(&json!({"completionMode": "NonIndexed", "successPolicy": {"rules": []}}));
        assert!(said[0].ends_with("requires indexed completion mode"), "{said:?}");
    }

    #[test]
    fn failed_indexes_need_a_limit_of_their_own() {
        assert_eq!(
            wrong(&json!({"maxFailedIndexes": 6})),
            [
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions",
            ]
        );
        assert_eq!(
            wrong(&json!({"completionMode": "NonIndexed", "backoffLimitPerIndex": 1})),
            ["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]
        );
    }
}
