//! Which objects a command line means: `pods`, `pod web`, `deploy,svc`, `pod/a service/b`.

use anyhow::{anyhow, bail};
use balsa_client::Backend as _;
use balsa_client::ListQuery;
use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{Key, KindRef, kinds};

use crate::connect::Session;

/// What the words say.
#[derive(Debug)]
pub(crate) enum Target {
    /// All objects of these kinds.
    All(Vec<KindRef>),
    /// These objects.
    Named(Vec<(KindRef, String)>),
}

/// Which objects of a kind.
#[derive(clap::Args, Default)]
pub(crate) struct Select {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only those with these labels, like app=web,tier!=db
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only those with these fields, like spec.nodeName=n1
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
}

impl Select {
    /// The filter for a kind.
    pub(crate) fn filter(&self, session: &Session, kind: KindRef) -> anyhow::Result<Filter> {
        let descriptor = kind.descriptor();
        let everywhere = self.all_namespaces || !descriptor.is_namespaced();
        let mut filter = Filter::namespaced(if everywhere { "" } else { &session.namespace });
        filter.labels = LabelSelector::parse(&self.selector)?;
        filter.fields = FieldSelector::parse(&self.field_selector, descriptor)?;
        Ok(filter)
    }

    /// Whether it leaves any object out.
    pub(crate) fn selects(&self) -> bool {
        !self.selector.is_empty() || !self.field_selector.is_empty()
    }
}

/// The one kind that a word names.
pub(crate) fn kind(word: &str) -> anyhow::Result<KindRef> {
    match kinds(word)?.as_slice() {
        [kind] => Ok(*kind),
        _ => bail!("\"{word}\" names several kinds; name one"),
    }
}

fn kinds(word: &str) -> anyhow::Result<Vec<KindRef>> {
    let found = kinds::by_word(word);
    if found.is_empty() {
        bail!("the server doesn't have a resource type \"{word}\"; `balsa api-resources` lists those it has");
    }
    Ok(found)
}

/// Reads the words of a command.
pub(crate) fn parse(words: &[String]) -> anyhow::Result<Target> {
    let Some(first) = words.first() else {
        bail!(
            "say what: a type (`pods`), a type and names (`pod web`), or TYPE/NAME; `balsa api-resources` lists types"
        );
    };
    if words.iter().any(|word| word.contains('/')) {
        return words.iter().map(|word| one(word)).collect::<anyhow::Result<_>>().map(Target::Named);
    }
    let mut all = Vec::new();
    for word in first.split(',') {
        for kind in kinds(word)? {
            if !all.contains(&kind) {
                all.push(kind);
            }
        }
    }
    let names = &words[1..];
    if names.is_empty() {
        return Ok(Target::All(all));
    }
    let named = all.iter().flat_map(|kind| names.iter().map(|name| (*kind, name.clone())));
    Ok(Target::Named(named.collect()))
}

/// Reads TYPE/NAME.
pub(crate) fn one(word: &str) -> anyhow::Result<(KindRef, String)> {
    match word.split_once('/') {
        Some((of, name)) if !of.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((kind(of)?, name.to_owned()))
        }
        _ => Err(anyhow!("\"{word}\" is not TYPE/NAME, like pod/web; either all arguments are, or none")),
    }
}

/// The places of all objects that are meant.
pub(crate) async fn resolve(
    session: &Session,
    words: &[String],
    select: &Select,
) -> anyhow::Result<Vec<(KindRef, Key)>> {
    match parse(words)? {
        Target::Named(_) if select.selects() => {
            bail!("names and selectors do not go together: use one of them")
        }
        Target::Named(named) => {
            Ok(named.into_iter().map(|(kind, name)| (kind, session.key(kind, &name))).collect())
        }
        Target::All(kinds) => {
            let mut found = Vec::new();
            for kind in kinds {
                let query = ListQuery::matching(select.filter(session, kind)?);
                let list = session.remote.list(kind, &query).await?;
                found.extend(list.items.iter().map(|object| (kind, object.key().clone())));
            }
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_name_kinds_and_objects() {
        let Target::All(kinds) = parse(&words("deploy,svc,po")).unwrap() else { panic!("names") };
        let plurals: Vec<_> = kinds.iter().map(|kind| kind.descriptor().plural).collect();
        assert_eq!(plurals, ["deployments", "services", "pods"]);
        let Target::Named(named) = parse(&words("pod/a svc/b")).unwrap() else { panic!("kinds") };
        assert_eq!((named[1].0.descriptor().plural, named[1].1.as_str()), ("services", "b"));
        let Target::Named(named) = parse(&words("Pod a b")).unwrap() else { panic!("kinds") };
        assert_eq!(named.len(), 2);
        for wrong in ["", "nothing", "pod/a b", "pod/", "pod/a/b"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
