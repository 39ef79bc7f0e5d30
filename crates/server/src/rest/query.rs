//! Query parameters. Unknown ones are ignored, as clients rely on.

use std::time::Duration;

use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{Descriptor, Failure, Revision};
use balsa_state::Start;

use crate::engine::{Page, ResourceVersionMatch, Wanted};

/// The parameters of a request, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default();
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; empty when it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a parameter is there and says neither `false` nor `0`.
    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.get(name);
        self.has(name) && value != "0" && !value.eq_ignore_ascii_case("false")
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Failure::bad_request(format!(
                    "query parameter {name}: Invalid value: \"{text}\": must be a number"
                ))
            }),
        }
    }

    /// Whether nothing is to be written. `options` is the kind of the verb's options.
    pub(super) fn dry_run(&self, options: &str) -> Result<bool, Failure> {
        dry_run(options, &self.all("dryRun"))
    }

    /// What a list or watch selects. A `name` from the URL counts as a field selector.
    pub(super) fn filter(&self, kind: &Descriptor, namespace: &str, name: &str) -> Result<Filter, Failure> {
        let mut filter = Filter::everything();
        if !namespace.is_empty() {
            filter.namespace = Some(namespace.into());
        }
        if !name.is_empty() {
            filter.name = Some(name.into());
        }
        filter.labels = LabelSelector::parse(self.get("labelSelector"))?;
        filter.fields = FieldSelector::parse(self.get("fieldSelector"), kind)?;
        Ok(filter)
    }

    pub(super) fn page(&self) -> Result<Page, Failure> {
        let limit = self.number::<i64>("limit")?.unwrap_or(0).max(0);
        Ok(Page {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continue_token: self.get("continue").to_owned(),
        })
    }

    fn version_match(&self) -> Result<Option<ResourceVersionMatch>, Failure> {
        match self.get("resourceVersionMatch") {
            "" => Ok(None),
            "NotOlderThan" => Ok(Some(ResourceVersionMatch::NotOlderThan)),
            "Exact" => Ok(Some(ResourceVersionMatch::Exact)),
            other => {
                let why = format!(
                    "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
                );
                Err(wrong_option("ListOptions", "FieldValueNotSupported", "resourceVersionMatch", &why))
            }
        }
    }

    fn version(&self) -> Result<Option<u64>, Failure> {
        match self.get("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Failure::bad_request(format!(
                    "resourceVersion: Invalid value: \"{text}\": must be an unsigned decimal integer"
                ))
            }),
        }
    }

    /// How fresh a get must be.
    pub(super) fn get_wanted(&self) -> Result<Wanted, Failure> {
        Ok(match self.version()? {
            None => Wanted::Latest,
            Some(0) => Wanted::Any,
            Some(version) => Wanted::NotOlderThan(Revision(version)),
        })
    }

    /// How fresh a list must be: the table of the API's documentation.
    pub(super) fn list_wanted(&self) -> Result<Wanted, Failure> {
        if self.has("sendInitialEvents") {
            return Err(invalid_options(
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ));
        }
        let (version, matching) = (self.version()?, self.version_match()?);
        if !self.get("continue").is_empty() {
            if matching.is_some() {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if version.is_some_and(|v| v != 0) {
                return Err(Failure::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return Ok(Wanted::Latest);
        }
        match (version, matching) {
            (None, None) => Ok(Wanted::Latest),
            (None, Some(_)) => Err(invalid_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            (Some(0), Some(ResourceVersionMatch::Exact)) => Err(invalid_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            (Some(0), _) => Ok(Wanted::Any),
            (Some(v), Some(ResourceVersionMatch::Exact)) => Ok(Wanted::Exact(Revision(v))),
            (Some(v), None) if self.number::<i64>("limit")?.unwrap_or(0) > 0 => {
                Ok(Wanted::Exact(Revision(v)))
            }
            (Some(v), _) => Ok(Wanted::NotOlderThan(Revision(v))),
        }
    }

    /// Where a watch starts, and whether the initial state is to be marked off.
    pub(super) fn watch_start(&self) -> Result<(Start, bool), Failure> {
        let (version, matching) = (self.version()?, self.version_match()?);
        let initial = self.flag("sendInitialEvents");
        match (self.has("sendInitialEvents"), matching) {
            (true, Some(ResourceVersionMatch::NotOlderThan)) | (false, None) => {}
            (true, _) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (false, Some(_)) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        Ok(match version {
            _ if initial => (Start::Initial, true),
            None | Some(0) => {
                (Start::Initial, !self.has("sendInitialEvents") && self.flag("allowWatchBookmarks"))
            }
            Some(version) => (Start::After(Revision(version)), false),
        })
    }

    pub(super) fn watch_timeout(&self) -> Result<Option<Duration>, Failure> {
        Ok(self.number::<u64>("timeoutSeconds")?.map(Duration::from_secs))
    }
}

/// Whether the directives of a dry run say so: there is one, `All`.
pub(super) fn dry_run(options: &str, directives: &[String]) -> Result<bool, Failure> {
    if directives.iter().all(String::is_empty) {
        return Ok(false);
    }
    if directives.iter().all(|directive| directive == "All") {
        return Ok(true);
    }
    let given: Vec<String> = directives.iter().map(|directive| format!("{directive:?}")).collect();
    let why = format!("Unsupported value: []string{{{}}}: supported values: \"All\"", given.join(", "));
    Err(wrong_option(options, "FieldValueNotSupported", "dryRun", &why))
}

fn invalid_options(message: impl Into<String>) -> Failure {
    let message = message.into();
    let (field, why) = message.split_once(": ").unwrap_or(("", &message));
    wrong_option("ListOptions", "FieldValueForbidden", field, why)
}

/// The refusal of a verb's options: `cause` is the cause's reason.
pub(super) fn wrong_option(options: &str, cause: &str, field: &str, why: &str) -> Failure {
    let message = format!("{options}.meta.k8s.io \"\" is invalid: {field}: {why}");
    let mut failure = Failure::new(balsa_model::Reason::Invalid, message);
    failure.group = "meta.k8s.io".to_owned();
    failure.kind = options.to_owned();
    failure.cause(cause, why, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text))
    }

    #[test]
    fn the_table_of_list_freshness() {
        assert_eq!(query("").list_wanted().unwrap(), Wanted::Latest);
        assert_eq!(query("resourceVersion=0").list_wanted().unwrap(), Wanted::Any);
        assert_eq!(query("resourceVersion=5").list_wanted().unwrap(), Wanted::NotOlderThan(Revision(5)));
        assert_eq!(query("resourceVersion=5&limit=2").list_wanted().unwrap(), Wanted::Exact(Revision(5)));
        assert_eq!(
            query("resourceVersion=5&resourceVersionMatch=Exact").list_wanted().unwrap(),
            Wanted::Exact(Revision(5))
        );
        for refused in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "continue=x&resourceVersionMatch=Exact&resourceVersion=1",
            "sendInitialEvents=true",
        ] {
            assert!(query(refused).list_wanted().is_err(), "{refused}");
        }
    }

    #[test]
    fn kube_rs_sends_an_empty_first_pair() {
        assert!(query("&watch=true&x=1").flag("watch"));
    }

    #[test]
    fn flags_are_set_unless_they_say_no() {
        for (text, set) in
            [("watch", true), ("watch=maybe", true), ("watch=False", false), ("watch=0", false), ("", false)]
        {
            assert_eq!(query(text).flag("watch"), set, "{text}");
        }
    }

    #[test]
    fn dry_runs_have_one_directive() {
        assert!(query("dryRun=All").dry_run("CreateOptions").unwrap());
        assert!(!query("dryRun=").dry_run("CreateOptions").unwrap());
        let failure = query("dryRun=all").dry_run("CreateOptions").unwrap_err();
        assert_eq!(failure.kind, "CreateOptions");
        assert_eq!(failure.causes[0].field, "dryRun");
    }
}
