//! Query parameters. Unknown ones are ignored, as clients rely on.

use std::time::Duration;

use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{Descriptor, Failure, Revision};
use balsa_state::Start;

use crate::engine::{Page, ResourceVersionMatch, Wanted};

/// The parameters of a request, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// What a watch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatchStart {
    pub(super) start: Start,
    /// How fresh it must be.
    pub(super) at_least: Revision,
    /// Whether the end of the initial state is told.
    pub(super) marks_initial: bool,
}

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

    /// A number; refused as Go refuses it.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
                let why = match error.kind() {
                    NegOverflow | PosOverflow => "value out of range",
                    _ => "invalid syntax",
                };
                Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
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
        let limit = self.number("limit")?.unwrap_or(0).max(0);
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
            (Some(v), None) if self.number("limit")?.unwrap_or(0) > 0 => Ok(Wanted::Exact(Revision(v))),
            (Some(v), _) => Ok(Wanted::NotOlderThan(Revision(v))),
        }
    }

    /// Where a watch starts.
    pub(super) fn watch_start(&self) -> Result<WatchStart, Failure> {
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
        let (start, marks_initial) = match version {
            _ if initial => (Start::Initial, true),
            None | Some(0) => {
                (Start::Initial, !self.has("sendInitialEvents") && self.flag("allowWatchBookmarks"))
            }
            Some(version) => (Start::After(Revision(version)), false),
        };
        Ok(WatchStart { start, at_least: Revision(version.unwrap_or(0)), marks_initial })
    }

    /// How long the client has time; `None`: it does not say.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Failure> {
        let seconds = self.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs))
    }
}

/// Whether the directives of a dry run say so: there is one, `All`.
pub(super) fn dry_run(options: &str, directives: &[String]) -> Result<bool, Failure> {
    if directives.is_empty() {
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
        assert!(!query("").dry_run("CreateOptions").unwrap());
        for wrong in ["dryRun=all", "dryRun=", "dryRun=All&dryRun="] {
            let failure = query(wrong).dry_run("CreateOptions").unwrap_err();
            assert_eq!((&*failure.kind, &*failure.causes[0].field), ("CreateOptions", "dryRun"), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_refused_in_the_words_of_go() {
        assert_eq!(query("timeoutSeconds=0").timeout().unwrap(), None);
        assert_eq!(query("timeoutSeconds=7").timeout().unwrap(), Some(Duration::from_secs(7)));
        for (text, why) in [("x", "invalid syntax"), ("99999999999999999999", "value out of range")] {
            let failure = query(&format!("timeoutSeconds={text}")).timeout().unwrap_err();
            assert_eq!(failure.message, format!("strconv.ParseInt: parsing \"{text}\": {why}"));
        }
    }

    #[test]
    fn an_initial_state_is_as_fresh_as_was_asked() {
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=9";
        let wanted = WatchStart { start: Start::Initial, at_least: Revision(9), marks_initial: true };
        assert_eq!(query(list).watch_start().unwrap(), wanted);
    }
}
