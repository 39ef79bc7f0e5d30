//! What is constant about a kind: its names, its parts, its columns.

use crate::table::Column;

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A part of an object with a URL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// Written by whoever observes; keeps everything but `status` as it is.
    Status,
    /// `autoscaling/v1 Scale`.
    Scale,
    /// Container logs.
    Log,
    /// A command in a container.
    Exec,
    /// A container's own streams.
    Attach,
    /// Byte pipes to ports.
    PortForward,
    /// HTTP to what runs there.
    Proxy,
    /// A pod's node, once.
    Binding,
    /// A deletion that disruption budgets may refuse.
    Eviction,
    /// The namespace controller's last word.
    Finalize,
    /// A service account's token.
    Token,
    /// The word of who may allow a certificate.
    Approval,
    /// Containers that join a pod which runs.
    EphemeralContainers,
    /// What a pod's containers may use, while they run.
    Resize,
}

impl Subresource {
    /// The last part of its URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

/// How names of a kind's objects are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 characters: most kinds.
    Subdomain,
    /// RFC 1123 label, 63 characters: namespaces.
    Label,
    /// RFC 1035 label, 63 characters, starts with a letter: services.
    Dns1035Label,
    /// Anything that fits one part of a URL path: RBAC's kinds.
    PathSegment,
}

/// What is constant about a kind.
#[derive(Debug)]
pub struct Descriptor {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version, `v1`.
    pub version: &'static str,
    /// Kind, `Pod`.
    pub kind: &'static str,
    /// Resource, `pods`.
    pub plural: &'static str,
    /// Resource of one, `pod`.
    pub singular: &'static str,
    /// In a namespace or not.
    pub scope: Scope,
    /// What fingers type, `po`.
    pub short_names: &'static [&'static str],
    /// Groups of kinds, `all`.
    pub categories: &'static [&'static str],
    /// Parts with URLs of their own.
    pub subresources: &'static [Subresource],
    /// How names are checked.
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes of what is neither metadata nor status.
    pub has_generation: bool,
    /// Seconds between the request for deletion and the removal when nobody says otherwise; `None`
    /// for kinds that go at once. Only pods wait.
    pub graceful: bool,
    /// Field labels that field selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub field_labels: &'static [&'static str],
    /// Field labels by which watchers are found, not asked one by one (`spec.nodeName` of pods).
    pub indexed_fields: &'static [&'static str],
    /// Whether what creates an object may give it its status. Only nodes come with one.
    pub keeps_status: bool,
    /// Whether PUT of a missing object creates it.
    pub create_on_update: bool,
    /// Whether PUT must say which version it replaces.
    pub needs_version: bool,
    /// Whether a deletion is answered with the object, not only with the news that it is gone.
    pub returns_deleted: bool,
    /// Name of the message in the protobuf tables, `core.v1.Pod`.
    pub message: &'static str,
    /// What whoever asks for it is warned of, where its days are numbered.
    pub deprecated: Option<&'static str>,
    /// Columns of `kubectl get`.
    pub columns: &'static [Column],
}

impl Descriptor {
    /// A plain namespaced kind; the others say what differs.
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        message: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            singular,
            scope: Scope::Namespaced,
            short_names: &[],
            categories: &[],
            subresources: &[],
            name_rule: NameRule::Subdomain,
            has_generation: false,
            graceful: false,
            field_labels: &[],
            indexed_fields: &[],
            keeps_status: false,
            create_on_update: false,
            needs_version: false,
            returns_deleted: false,
            message,
            deprecated: None,
            columns: crate::table::NAME_AND_AGE,
        }
    }

    /// A plain cluster-scoped kind.
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        message: &'static str,
    ) -> Self {
        let mut descriptor = Self::namespaced(group, version, kind, plural, singular, message);
        descriptor.scope = Scope::Cluster;
        descriptor
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, or `deployments.apps`: how messages name a resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Pod`, or `Deployment.apps`: how messages name a kind.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Whether it has that part.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether its objects may be deleted all at once. Nobody shall do that to namespaces.
    pub fn deletes_collections(&self) -> bool {
        !(self.group.is_empty() && self.plural == "namespaces")
    }

    /// Whether it is in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}
