//! Images: what is known of them, how they are named, and who may fetch them.

use std::fmt;

use jiff::Timestamp;

/// A local image and what it says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `name:tag`, all that point at it.
    pub repo_tags: Vec<String>,
    /// `name@sha256:…` as registries know it; empty for images that were never pulled.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    pub user: String,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its arguments, or, without an entrypoint, what is run.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Directories that want a volume.
    pub volumes: Vec<String>,
    /// Where the command starts.
    pub working_dir: String,
    /// The signal that asks it to end; empty is SIGTERM.
    pub stop_signal: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// When it was built.
    pub created_at: Option<Timestamp>,
}

impl ImageInfo {
    /// The number of the user, when the image names one by number.
    pub fn uid(&self) -> Option<u32> {
        self.user.split(':').next().and_then(|user| user.parse().ok())
    }

    /// What tells the image from others, seen from the name that it was asked for by: its digest in that name's
    /// repository where it came from there, else the engine's own id.
    pub fn identity(&self, reference: &str) -> String {
        let asked = repository(reference);
        let own = self.repo_digests.iter().filter_map(|known| known.split_once('@'));
        let mut own = own.filter(|(name, _)| repository(name) == asked).map(|(_, digest)| digest);
        // One that is asked for by digest may be known by others, too.
        let wanted = reference.split_once('@').map(|(_, digest)| digest);
        let digest = own.clone().find(|digest| Some(*digest) == wanted).or_else(|| own.next());
        digest.map_or_else(|| self.id.clone(), |digest| format!("{asked}@{digest}"))
    }
}

/// One line of the list of local images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `name:tag`, all that point at it.
    pub repo_tags: Vec<String>,
    /// `name@sha256:…` as registries know it.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
}

/// A step of a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// The layer it is about, or empty for the image as a whole.
    pub layer: String,
    /// `Downloading`, `Extracting`, `Pull complete`, ….
    pub status: String,
    /// Bytes done, when it is counted.
    pub current: u64,
    /// Bytes in all, when it is known.
    pub total: u64,
}

/// Credentials for a registry. `Debug` shows who, never the secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: Option<String>,
    /// Password or access token.
    pub password: Option<String>,
    /// The registry they are for.
    pub server_address: Option<String>,
    /// A token that stands for user and password.
    pub identity_token: Option<String>,
    /// A bearer token, sent as it is.
    pub registry_token: Option<String>,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// The reference with `:latest` when it names neither tag nor digest: without one, an engine would
/// pull every tag there is.
pub fn with_default_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if reference.contains('@') || last.contains(':') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// The repository that a reference means, in full: `docker.io/library/busybox` of `busybox:1`.
fn repository(reference: &str) -> String {
    let named = reference.split_once('@').map_or(reference, |(named, _)| named);
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let name = named[last..].find(':').map_or(named, |colon| &named[..last + colon]);
    let (host, path) = match name.split_once('/') {
        Some(("index.docker.io", path)) => ("docker.io", path),
        Some((host, path)) if is_host(host) => (host, path),
        _ => ("docker.io", name),
    };
    let official = host == "docker.io" && !path.contains('/');
    if official { format!("{host}/library/{path}") } else { format!("{host}/{path}") }
}

/// Whether the first part of a name is a registry, and not the beginning of a path.
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

/// Whether a text can name an image: `[host[:port]/]path[:tag][@digest]`.
fn is_reference(text: &str) -> bool {
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    let is_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    digest.is_none_or(is_digest) && tag.is_none_or(is_tag) && is_name(name)
}

/// Why a text can name no image, in the words of the library that all engines read names with.
pub fn why_no_reference(text: &str) -> Option<String> {
    if is_reference(text) {
        return None;
    }
    let path = match text.split_once('/') {
        Some((host, path)) if is_host(host) => path.to_owned(),
        Some(_) => text.to_owned(),
        None => format!("library/{text}"),
    };
    let name = path.split(':').next().unwrap_or_default();
    Some(if name.chars().any(char::is_uppercase) {
        format!("invalid reference format: repository name ({name}) must be lowercase")
    } else {
        "invalid reference format".to_owned()
    })
}

fn is_tag(tag: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&tag.len()) && tag.bytes().all(fits) && !tag.starts_with(['.', '-'])
}

fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((host, path)) if is_host(host) => {
            let (host, port) = host.split_once(':').unwrap_or((host, "0"));
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
            if host.is_empty() || !host.bytes().all(fits) || port.parse::<u16>().is_err() {
                return false;
            }
            path
        }
        _ => name,
    };
    let is_part = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let fits = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        };
        part.bytes().all(fits) && edge(part.as_bytes().first()) && edge(part.as_bytes().last())
    };
    path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_an_image() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for good in
            ["nginx", "nginx:1.27", "localhost/a", "127.0.0.1:7170/t/a:1", "r.io/a_b/c-d.e:v1_2", &digest]
        {
            assert!(is_reference(good), "{good}");
        }
        for bad in
            ["", "Not//a:name:at:all", "Nginx", "a:", "a:b:c", "/a", "a/", "a@sha256:0", "a b", "h:x/a", "-a"]
        {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn why_a_name_is_none() {
        for (name, why) in [
            ("busyBOX:1", "invalid reference format: repository name (library/busyBOX) must be lowercase"),
            ("r.io/a/B:1", "invalid reference format: repository name (a/B) must be lowercase"),
            ("a:TAG:1", "invalid reference format"),
            (":tag", "invalid reference format"),
        ] {
            assert_eq!(why_no_reference(name).as_deref(), Some(why), "{name}");
        }
        assert_eq!(why_no_reference("r.io/a:TAG"), None);
    }

    #[test]
    fn an_image_is_told_by_its_digest_in_the_repository_it_was_asked_for_in() {
        let digests =
            ["toys/kite@sha256:1", "r:5000/toys/kite@sha256:2", "busybox@sha256:3", "busybox@sha256:4"];
        let image = ImageInfo {
            id: "sha256:0".to_owned(),
            repo_digests: digests.map(str::to_owned).into(),
            ..ImageInfo::default()
        };
        for (asked, told) in [
            ("r:5000/toys/kite:1", "r:5000/toys/kite@sha256:2"),
            ("r:5000/toys/kite", "r:5000/toys/kite@sha256:2"),
            ("toys/kite:1", "docker.io/toys/kite@sha256:1"),
            ("busybox", "docker.io/library/busybox@sha256:3"),
            ("index.docker.io/library/busybox:2", "docker.io/library/busybox@sha256:3"),
            ("busybox:1@sha256:4", "docker.io/library/busybox@sha256:4"),
            // Somebody named it so here; that repository never had it.
            ("other/kite:1", "sha256:0"),
            ("sha256:0", "sha256:0"),
        ] {
            assert_eq!(image.identity(asked), told, "{asked}");
        }
        assert_eq!(ImageInfo { repo_digests: Vec::new(), ..image }.identity("busybox"), "sha256:0");
    }

    #[test]
    fn only_bare_names_get_a_tag() {
        for (given, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.27", "nginx:1.27"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_default_tag(given), expected);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let auth = RegistryAuth {
            username: Some("goldie".into()),
            password: Some("hunter2".into()),
            ..RegistryAuth::default()
        };
        let shown = format!("{auth:?}");
        assert!(shown.contains("goldie") && !shown.contains("hunter2"), "{shown}");
    }
}
