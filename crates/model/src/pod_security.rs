//! The Pod Security Standards: what a namespace's labels demand of the pods in it, and where a pod falls short.
//!
//! `baseline` and `restricted` are lists of checks, each since some minor version, one function a check. Which
//! there are and how they are worded is `k8s.io/pod-security-admission/policy`'s. There is no audit log here: what
//! the `audit` labels say is checked and has no effect.

mod baseline;
mod restricted;
mod subject;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::field::{FieldErrors, Path};
use crate::kind::Pods;
use subject::Subject;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict a standard is, the least strict first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is allowed.
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// As little as a well-behaved program needs.
    Restricted,
}

impl Level {
    /// What a namespace's label says; `None` when that is no level.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// As of which release a standard is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// As of a minor version of Kubernetes 1.
    Minor(u32),
    /// As it is now.
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let is_plain =
            minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        if is_plain { minor.parse().ok().map(Self::Minor) } else { None }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A level as of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    /// How strict it is.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

impl Standard {
    const NONE: Self = Self { level: Level::Privileged, version: Version::Latest };

    /// Whether pods that satisfy `other` may fail this.
    pub fn is_stricter(self, other: Self) -> bool {
        self != other
            && self.level != Level::Privileged
            && (self.version != other.version || self.level > other.level)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

/// What a namespace demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Pods that fail it are refused.
    pub enforce: Standard,
    /// Whoever makes pods that fail it is warned.
    pub warn: Standard,
}

impl Policy {
    /// What a namespace's labels say. A label that says nothing sensible is an error and, for what is enforced,
    /// counts as the strictest.
    pub fn of(labels: Option<&BTreeMap<String, String>>, errors: &mut FieldErrors) -> Self {
        let says_something =
            |labels: &&BTreeMap<String, String>| labels.keys().any(|key| key.starts_with(PREFIX));
        // As good as every namespace, at every pod that is made in it.
        let Some(labels) = labels.filter(says_something) else {
            return Self { enforce: Standard::NONE, warn: Standard::NONE };
        };
        let enforce = standard(labels, "enforce", Level::Restricted, errors);
        standard(labels, "audit", Level::Privileged, errors);
        let warn = standard(labels, "warn", Level::Privileged, errors);
        Self { enforce, warn }
    }
}

/// What the two labels of a mode say; `otherwise` is what a level counts as that is none.
fn standard(
    labels: &BTreeMap<String, String>,
    mode: &str,
    otherwise: Level,
    errors: &mut FieldErrors,
) -> Standard {
    let mut standard = Standard::NONE;
    let mut wrong = |label: &str, value: &str, detail: &str| {
        errors.invalid(&Path::new("metadata").child("labels").key(label), value, detail);
    };
    let label = format!("{PREFIX}{mode}");
    if let Some(text) = labels.get(&label) {
        standard.level = Level::parse(text).unwrap_or_else(|| {
            wrong(&label, text, "must be one of privileged, baseline, restricted");
            otherwise
        });
    }
    let label = format!("{label}-version");
    if let Some(text) = labels.get(&label) {
        standard.version = Version::parse(text).unwrap_or_else(|| {
            wrong(&label, text, "must be \"latest\" or \"v1.x\"");
            Version::Latest
        });
    }
    standard
}

/// Where a pod falls short of a standard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    reason: String,
    detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: reason.into(), detail: detail.into() }
    }
}

/// One demand of a standard.
struct Check {
    level: Level,
    /// The minor version since which it is made.
    since: u32,
    /// The minor version since which a check of the restricted level demands all of it, and more.
    contained_since: Option<u32>,
    find: fn(&Subject<'_>) -> Option<Violation>,
}

impl Check {
    const fn baseline(find: fn(&Subject<'_>) -> Option<Violation>) -> Self {
        Self { level: Level::Baseline, since: 0, contained_since: None, find }
    }

    const fn contained(since: u32, find: fn(&Subject<'_>) -> Option<Violation>) -> Self {
        Self { contained_since: Some(since), ..Self::baseline(find) }
    }

    const fn restricted(since: u32, find: fn(&Subject<'_>) -> Option<Violation>) -> Self {
        Self { level: Level::Restricted, since, contained_since: None, find }
    }

    fn is_made_by(&self, level: Level, minor: u32) -> bool {
        let is_contained =
            level == Level::Restricted && self.contained_since.is_some_and(|since| since <= minor);
        self.level <= level && self.since <= minor && !is_contained
    }
}

/// All checks, in the order in which they are told.
const CHECKS: &[Check] = &[
    Check::baseline(baseline::apparmor),
    Check::contained(22, baseline::capabilities),
    Check::baseline(baseline::host_namespaces),
    Check::contained(0, baseline::host_paths),
    Check::baseline(baseline::host_ports),
    Check::baseline(baseline::privileged),
    Check::baseline(baseline::proc_mount),
    Check::baseline(baseline::selinux),
    Check::contained(19, baseline::seccomp),
    Check::baseline(baseline::sysctls),
    Check::baseline(baseline::windows_host_process),
    Check::restricted(8, restricted::privilege_escalation),
    Check::restricted(22, restricted::capabilities),
    Check::restricted(0, restricted::volumes),
    Check::restricted(0, restricted::run_as_non_root),
    Check::restricted(23, restricted::run_as_user),
    Check::restricted(19, restricted::seccomp),
];

/// Where pods fall short of a standard.
pub fn violations(standard: Standard, pods: &Pods<'_>) -> Vec<Violation> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let minor = match standard.version {
        Version::Minor(minor) => minor,
        Version::Latest => u32::MAX,
    };
    let subject = Subject::new(pods, minor);
    let checks = CHECKS.iter().filter(|check| check.is_made_by(standard.level, minor));
    checks.filter_map(|check| (check.find)(&subject)).collect()
}

/// Violations as one line that says all.
pub fn details(violations: &[Violation]) -> String {
    let one = |violation: &Violation| format!("{} ({})", violation.reason, violation.detail);
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Violations as one line that says what kinds of them there are.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether something of a pod changed that a standard may have to do with: what runs in it. All else that it says of
/// security cannot change.
pub fn is_significant(new: &Pod, old: &Pod) -> bool {
    let images = |pod: &Pod| -> Vec<Option<String>> {
        let spec = pod.spec.as_ref();
        let usual = spec.map_or(&[][..], |spec| &spec.containers).iter();
        let first = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default().iter();
        let guests = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let images = first.chain(usual).map(|container| container.image.clone());
        images.chain(guests.iter().map(|guest| guest.image.clone())).collect()
    };
    images(new) != images(old)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(labels: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let labels =
            labels.iter().map(|(label, value)| (format!("{PREFIX}{label}"), (*value).to_owned())).collect();
        let mut errors = FieldErrors::new();
        let policy = Policy::of(Some(&labels), &mut errors);
        (policy, errors.into_vec().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_say_what_is_demanded_and_since_when() {
        let (found, wrong) =
            policy(&[("enforce", "baseline"), ("enforce-version", "v1.24"), ("warn", "restricted")]);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(found.enforce.to_string(), "baseline:v1.24");
        assert_eq!(found.warn.to_string(), "restricted:latest");
        assert_eq!(policy(&[]).0, Policy { enforce: Standard::NONE, warn: Standard::NONE });
    }

    #[test]
    fn what_is_enforced_counts_as_strict_where_its_label_makes_no_sense() {
        let (found, wrong) =
            policy(&[("enforce", "foo"), ("warn", "Baseline"), ("audit", ""), ("warn-version", "v1.02")]);
        assert_eq!(found.enforce.level, Level::Restricted);
        assert_eq!(found.warn, Standard::NONE);
        assert_eq!(
            wrong,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"foo\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"Baseline\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.02\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }

    #[test]
    fn only_a_change_to_more_demands_makes_old_pods_worth_a_look() {
        let standard = |level, version| Standard { level, version };
        let now = |level| standard(level, Version::Latest);
        assert!(now(Level::Baseline).is_stricter(now(Level::Privileged)));
        assert!(now(Level::Baseline).is_stricter(standard(Level::Restricted, Version::Minor(7))));
        assert!(!now(Level::Baseline).is_stricter(now(Level::Restricted)));
        assert!(!now(Level::Privileged).is_stricter(standard(Level::Privileged, Version::Minor(7))));
    }

    fn found(standard: &str, pod: Value) -> String {
        let (level, version) = standard.split_once(':').unwrap();
        let standard =
            Standard { level: Level::parse(level).unwrap(), version: Version::parse(version).unwrap() };
        let pod: Pod = serde_json::from_value(pod).unwrap();
        details(&violations(standard, &Pods::of_pod(&pod).unwrap()))
    }

    fn pod(container: Value) -> Value {
        let mut container = container;
        container["name"] = "c".into();
        json!({"spec": {"containers": [container]}})
    }

    #[test]
    fn a_plain_pod_is_no_restricted_one() {
        assert_eq!(found("baseline:latest", pod(json!({}))), "");
        assert_eq!(
            found("restricted:latest", pod(json!({}))),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let good = json!({"securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}});
        assert_eq!(found("restricted:latest", pod(good)), "");
    }

    #[test]
    fn a_version_asks_for_what_it_knew() {
        let old = found("restricted:v1.7", pod(json!({})));
        assert_eq!(
            old,
            "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)"
        );
        let adds = pod(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}));
        let wrong = |standard| found(standard, adds.clone());
        assert!(wrong("restricted:v1.21").contains("non-default capabilities"));
        assert!(!wrong("restricted:v1.22").contains("non-default capabilities"));
        assert!(
            wrong("restricted:v1.22")
                .contains("must not include \"SYS_ADMIN\" in securityContext.capabilities.add")
        );
    }

    #[test]
    fn what_leads_out_of_a_container_fails_the_baseline() {
        let spec = json!({"hostNetwork": true, "hostPID": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}], "seLinuxOptions": {"user": "u"}},
            "initContainers": [{"name": "i", "securityContext": {"privileged": true, "procMount": "Unmasked"}}],
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 81}],
                "securityContext": {"privileged": true, "capabilities": {"add": ["KILL", "NET_ADMIN"]},
                    "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}}}]});
        assert_eq!(
            found("baseline:latest", json!({"spec": spec})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\"), \
             non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), \
             hostPath volumes (volumes \"v\", \"w\"), \
             hostPort (container \"c\" uses hostPorts 8080, 81), \
             privileged (containers \"i\", \"c\" must not set securityContext.privileged=true), \
             procMount (container \"i\" must not set securityContext.procMount to \"Unmasked\"), \
             seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: user may not be set), \
             seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\"), \
             forbidden sysctls (kernel.msgmax)"
        );
    }

    #[test]
    fn annotations_from_before_the_fields_count_too() {
        let meta = json!({"annotations": {
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined"}});
        let pod = json!({"metadata": meta, "spec": {"containers": [{"name": "c"}]}});
        assert_eq!(
            found("baseline:v1.18", pod.clone()),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/c=\\\"unconfined\\\"\"), \
             seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        );
        assert!(!found("baseline:latest", pod).contains("seccomp"));
    }

    #[test]
    fn a_windows_pod_is_not_asked_for_what_it_cannot_have() {
        let pod = json!({"spec": {"os": {"name": "windows"}, "containers": [{"name": "c"}],
            "securityContext": {"runAsUser": 0, "windowsOptions": {"hostProcess": true}}}});
        assert_eq!(
            found("restricted:latest", pod.clone()),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             runAsUser=0 (pod must not set runAsUser=0)"
        );
        assert!(found("restricted:v1.24", pod).contains("allowPrivilegeEscalation != false"));
    }

    #[test]
    fn restricted_pods_have_volumes_that_are_their_own() {
        let volumes = json!([{"name": "a", "nfs": {"server": "s", "path": "/"}}, {"name": "b", "hostPath": {"path": "/"}},
            {"name": "c", "emptyDir": {}}]);
        let pod = json!({"spec": {"containers": [], "volumes": volumes}});
        assert_eq!(
            found("restricted:latest", pod),
            "restricted volume types (volumes \"a\", \"b\" use restricted volume types \"hostPath\", \"nfs\")"
        );
    }

    #[test]
    fn only_what_runs_in_a_pod_is_worth_another_look() {
        let pod = |image: &str, guests: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"labels": {"a": image}},
                "spec": {"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": guests}}))
            .unwrap()
        };
        assert!(!is_significant(&pod("1", json!([])), &pod("2", json!([]))));
        assert!(is_significant(&pod("1", json!([{"name": "g", "image": "g"}])), &pod("1", json!([]))));
    }
}
