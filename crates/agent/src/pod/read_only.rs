//! Mounts that are not to be written through: whether what is mounted below them is read-only, too.

use k8s_openapi::api::core::v1::VolumeMount;

/// Whether a mount is read-only all the way down; an error where that is wanted and cannot be had.
pub(crate) fn is_recursive(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let name = &mount.name;
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => Ok(false),
        Some("IfPossible") => Ok(supported),
        Some("Enabled") if supported => Ok(true),
        Some("Enabled") => Err(format!(
            "failed to resolve recursive read-only mode: volume \"{name}\" requested recursive read-only mode, but it is not supported by the runtime"
        )),
        Some(other) => Err(format!(
            "failed to resolve recursive read-only mode: unknown recursive read-only mode \"{other}\""
        )),
    }
}

/// As a container's status tells it; nothing of a mount that may be written through.
pub(crate) fn shown(mount: &VolumeMount, supported: bool) -> Option<String> {
    let recursive = is_recursive(mount, supported).unwrap_or(false);
    (mount.read_only == Some(true)).then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused_only_where_it_must_be_had() {
        let mount = |mode: Option<&str>| VolumeMount {
            name: "v".to_owned(),
            read_only: Some(true),
            recursive_read_only: mode.map(str::to_owned),
            ..VolumeMount::default()
        };
        for (mode, supported, recursive) in [
            (None, true, false),
            (Some("Disabled"), true, false),
            (Some("IfPossible"), true, true),
            (Some("IfPossible"), false, false),
            (Some("Enabled"), true, true),
        ] {
            assert_eq!(is_recursive(&mount(mode), supported), Ok(recursive), "{mode:?} {supported}");
            let told = if recursive { "Enabled" } else { "Disabled" };
            assert_eq!(shown(&mount(mode), supported).as_deref(), Some(told));
        }
        let refused = is_recursive(&mount(Some("Enabled")), false).unwrap_err();
        assert_eq!(
            refused,
            "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not supported by the runtime"
        );
        assert_eq!(shown(&VolumeMount::default(), true), None);
    }
}
