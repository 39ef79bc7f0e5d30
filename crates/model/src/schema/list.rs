//! How the lists and maps of the built-in types merge: for strategic merge patches, for server-side
//! apply, and as it stands in OpenAPI documents. Read once from `data/list-semantics.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// How one field merges. What the data does not name has the default: lists are atomic, maps are not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Semantics {
    /// `atomic`, `set` or `map`.
    pub(crate) list_type: Option<String>,
    /// The keys of a list that is a map.
    pub(crate) list_map_keys: Vec<String>,
    /// `granular` or `atomic`.
    pub(crate) map_type: Option<String>,
    /// `granular` or `atomic`.
    pub(crate) struct_type: Option<String>,
    /// `merge`, `replace`, `retainKeys`, or several with commas.
    pub(crate) patch_strategy: Option<String>,
    /// The key of items in a strategic merge patch.
    pub(crate) patch_merge_key: Option<String>,
}

impl Semantics {
    /// Whether the strategy of strategic merge patches has that word in it.
    pub(crate) fn has_strategy(&self, word: &str) -> bool {
        self.patch_strategy.as_deref().is_some_and(|all| all.split(',').any(|one| one == word))
    }
}

#[derive(Deserialize)]
struct Data {
    types: BTreeMap<String, BTreeMap<String, Semantics>>,
}

static DATA: &str = include_str!("../../data/list-semantics.json");
static SEMANTICS: LazyLock<BTreeMap<String, BTreeMap<String, Semantics>>> = LazyLock::new(|| {
    // A part of the program: a test reads it.
    serde_json::from_str::<Data>(DATA).map(|data| data.types).unwrap_or_default()
});

/// How a field of a message (`core.v1.PodSpec`) merges.
pub(crate) fn semantics(message: &str, field: &str) -> Option<&'static Semantics> {
    SEMANTICS.get(message.strip_prefix("am.apis.").unwrap_or(message))?.get(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_whole() {
        let containers = semantics("core.v1.PodSpec", "containers").unwrap();
        assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
        assert!(containers.has_strategy("merge"));
        let volumes = semantics("core.v1.PodSpec", "volumes").unwrap();
        assert!(volumes.has_strategy("merge") && volumes.has_strategy("retainKeys"));
        assert!(semantics("core.v1.PodSpec", "nodeName").is_none());
        assert!(semantics("am.apis.meta.v1.ObjectMeta", "finalizers").is_some());
    }
}
