//! What only pods of Windows have: accounts that a group manages, users by name, containers that are processes of
//! the host.

use k8s_openapi::api::core::v1::{PodSpec, WindowsSecurityContextOptions};

use super::members::members;
use crate::field::{FieldErrors, Path};
use crate::meta;

const LARGEST_CREDENTIALS_KIB: usize = 64;
/// Domains are shorter than this, users at most as long as that.
const TOO_LONG_DOMAIN: usize = 256;
const LONGEST_USER: usize = 104;
const LONGEST_LABEL: usize = 63;
const LONGEST_NETBIOS: usize = 15;

/// Checks the options of a pod or of a container.
pub(super) fn validate_options(
    options: Option<&WindowsSecurityContextOptions>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        for wrong in meta::dns1123_subdomain(name) {
            errors.invalid(&path.child("gmsaCredentialSpecName"), name.as_str(), wrong);
        }
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec.as_str(), "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > LARGEST_CREDENTIALS_KIB << 10 {
            let detail = format!("gmsaCredentialSpec size must be under {LARGEST_CREDENTIALS_KIB} KiB");
            errors.invalid(&path, spec.as_str(), detail);
        }
    }
    if let Some(name) = &options.run_as_user_name {
        for wrong in wrong_user_name(name) {
            errors.invalid(&path.child("runAsUserName"), name.as_str(), wrong);
        }
    }
}

/// `user` or `domain\user`.
fn wrong_user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    if user.contains('\\') {
        return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
    }
    let mut wrong = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= TOO_LONG_DOMAIN) {
        wrong.push(format!("runAsUserName's Domain length must be under {TOO_LONG_DOMAIN} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > LONGEST_USER {
        wrong.push(format!("runAsUserName's User length must not be longer than {LONGEST_USER} characters"));
    }
    if !user.is_empty() && user.bytes().all(|byte| matches!(byte, b'.' | b' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        let which = "\"/\\:;|=,+*?<>@[]";
        wrong.push(format!("runAsUserName's User cannot contain the following characters: {which}"));
    }
    wrong
}

fn is_netbios(domain: &str) -> bool {
    (1..=LONGEST_NETBIOS).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.split('.').all(is_label)
}

/// Checks that all containers are processes of the host, or none is.
pub(super) fn validate_host_process(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref());
    let of_pod = of_pod.and_then(|options| options.host_process);
    let all = members(spec, path);
    let mut on_host = 0;
    for member in &all {
        let own = member.context.and_then(|context| context.windows_options.as_ref());
        let own = own.and_then(|options| options.host_process);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let path = ["securityContext", "windowsOptions", "hostProcess"];
            let path = path.iter().fold(member.path.clone(), |path, field| path.child(field));
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(&path, own, detail);
        }
        on_host += usize::from(own.or(of_pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != all.len() {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if spec.host_network != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), false, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    fn wrong(options: Value) -> Vec<String> {
        let options: WindowsSecurityContextOptions = serde_json::from_value(options).unwrap();
        let mut errors = FieldErrors::new();
        validate_options(Some(&options), &Path::new("w"), &mut errors);
        texts(errors)
    }

    #[test]
    fn credentials_have_names_and_a_size() {
        assert!(wrong(json!({"gmsaCredentialSpecName": "web.apps", "gmsaCredentialSpec": "{}"})).is_empty());
        let found = wrong(json!({"gmsaCredentialSpecName": "A B", "gmsaCredentialSpec": ""}));
        assert!(found[0].starts_with("w.gmsaCredentialSpecName: Invalid value: \"A B\": "), "{found:?}");
        assert_eq!(
            found[1],
            "w.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string"
        );
        let large = "x".repeat((64 << 10) + 1);
        assert!(wrong(json!({"gmsaCredentialSpec": large}))[0].ends_with("size must be under 64 KiB"));
    }

    #[test]
    fn users_are_named_as_windows_names_them() {
        for good in ["ContainerUser", "NT AUTHORITY\\SYSTEM", "corp.example.com\\goldie", "a b"] {
            assert!(wrong(json!({"runAsUserName": good})).is_empty(), "{good}");
        }
        for (name, detail) in [
            ("", "cannot be an empty string"),
            ("a\tb", "cannot contain control characters"),
            ("a\\b\\c", "cannot contain more than one backslash"),
            ("\\b", "Domain doesn't match the NetBios nor the DNS format"),
            ("this-is-a-label-*\\b", "Domain doesn't match the NetBios nor the DNS format"),
            ("a\\", "User cannot be empty"),
            (". .", "User cannot contain only periods or spaces"),
            ("a@b", "User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
        ] {
            let found = wrong(json!({"runAsUserName": name}));
            assert!(found.len() == 1 && found[0].ends_with(detail), "{name:?}: {found:?}");
        }
        assert!(wrong(json!({"runAsUserName": "a".repeat(105)}))[0].ends_with("longer than 104 characters"));
        let long = format!("{}\\b", "a".repeat(256));
        assert!(wrong(json!({"runAsUserName": long}))[0].ends_with("must be under 256 characters"));
    }

    #[test]
    fn all_containers_are_on_the_host_or_none() {
        let on_host = |is: bool| json!({"windowsOptions": {"hostProcess": is}});
        let wrong = |spec: Value| {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let mut errors = FieldErrors::new();
            validate_host_process(&spec, &Path::new("spec"), &mut errors);
            texts(errors)
        };
        let two = json!([{"name": "a", "securityContext": on_host(true)}, {"name": "b"}]);
        assert!(wrong(json!({"containers": [{"name": "a", "securityContext": on_host(false)}]})).is_empty());
        let inherited =
            json!({"hostNetwork": true, "securityContext": on_host(true), "containers": [{"name": "a"}]});
        assert!(wrong(inherited).is_empty());
        assert_eq!(
            wrong(json!({"containers": two})),
            [
                "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
            ]
        );
        assert_eq!(
            wrong(json!({"securityContext": on_host(false), "hostNetwork": true,
                "containers": [{"name": "a", "securityContext": on_host(true)}]})),
            [
                "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: true: pod hostProcess value must be identical if both are specified, was false"
            ]
        );
    }
}
