//! A table's content as a value, and the commands that lead from one to another.
//!
//! Invariant: commands that [`diff`] gives are one transaction, in an order in which the kernel
//! accepts it: things that are referred to come before what refers to them, and go after it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::nft;

/// Everything in one table of family `ip`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSet {
    /// The table's name.
    pub table: String,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A set, or a map when its elements have data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// What distinguishes it besides its name: key type, `map`, flags, timeout.
    pub spec: Vec<(&'static str, Value)>,
    /// Its elements: key and data, under the key's text. Sets that the packets fill have none.
    pub elements: BTreeMap<String, (Value, Option<Value>)>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// Type, hook and priority of a base chain.
    pub hook: Option<(&'static str, &'static str, i32)>,
    /// Its rules: lists of expressions.
    pub rules: Vec<Value>,
}

impl Set {
    /// An empty set of the kind that `spec` tells.
    pub fn new(spec: Vec<(&'static str, Value)>) -> Self {
        Self { spec, elements: BTreeMap::new() }
    }

    /// Adds an element; the first one with a key stays.
    pub fn insert(&mut self, key: Value, data: Option<Value>) {
        self.elements.entry(key.to_string()).or_insert((key, data));
    }

    fn is_map(&self) -> bool {
        self.spec.iter().any(|(field, _)| *field == "map")
    }
}

impl RuleSet {
    /// The commands that make the table from nothing, replacing what is there.
    pub fn full(&self) -> Vec<Value> {
        let name = json!({"family": "ip", "name": self.table});
        let mut commands = vec![
            json!({"add": {"table": name.clone()}}),
            json!({"delete": {"table": name.clone()}}),
            json!({"add": {"table": name}}),
        ];
        commands.extend(diff(&Self { table: self.table.clone(), ..Self::default() }, self));
        commands
    }

    fn object(
        &self,
        command: &str,
        kind: &str,
        fields: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Value {
        let mut object = serde_json::Map::new();
        object.insert("family".into(), json!("ip"));
        object.insert("table".into(), json!(self.table));
        object.extend(fields.into_iter().map(|(field, value)| (field.to_owned(), value)));
        json!({command: {kind: object}})
    }

    fn add_set(&self, name: &str, set: &Set) -> Value {
        let kind = if set.is_map() { "map" } else { "set" };
        self.object("add", kind, [("name", json!(name))].into_iter().chain(set.spec.iter().cloned()))
    }

    fn add_chain(&self, name: &str, chain: &Chain) -> Value {
        match chain.hook {
            Some((kind, hook, priority)) => nft::base_chain(&self.table, name, kind, hook, priority),
            None => self.object("add", "chain", [("name", json!(name))]),
        }
    }

    fn elements(&self, command: &str, name: &str, elements: Vec<Value>) -> Option<Value> {
        (!elements.is_empty())
            .then(|| self.object(command, "element", [("name", json!(name)), ("elem", json!(elements))]))
    }
}

/// The commands that lead from `old` to `new`, which are of the same table; none if they are equal.
pub fn diff(old: &RuleSet, new: &RuleSet) -> Vec<Value> {
    let gone = |name: &&String| !new.chains.contains_key(*name);
    let changed = |name: &str, chain: &Chain| old.chains.get(name).is_none_or(|before| before != chain);
    let mut commands = Vec::new();
    for (name, set) in &new.sets {
        if old.sets.get(name).is_none_or(|before| before.spec != set.spec) {
            commands.push(new.add_set(name, set));
        }
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        commands.push(new.add_chain(name, chain));
    }
    for name in old.chains.keys().filter(gone) {
        commands.push(new.object("flush", "chain", [("name", json!(name))]));
    }
    for (name, chain) in new.chains.iter().filter(|(name, chain)| changed(name, chain)) {
        if old.chains.contains_key(name) {
            commands.push(new.object("flush", "chain", [("name", json!(name))]));
        }
        for rule in &chain.rules {
            commands.push(new.object("add", "rule", [("chain", json!(name)), ("expr", rule.clone())]));
        }
    }
    for (name, set) in &new.sets {
        let empty = Set::default();
        diff_elements(new, name, old.sets.get(name).unwrap_or(&empty), set, &mut commands);
    }
    for name in old.chains.keys().filter(gone) {
        commands.push(new.object("delete", "chain", [("name", json!(name))]));
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        commands.push(new.object("delete", "set", [("name", json!(name))]));
    }
    commands
}

fn diff_elements(rules: &RuleSet, name: &str, old: &Set, new: &Set, commands: &mut Vec<Value>) {
    let mut removed = Vec::new();
    for (text, element) in &old.elements {
        if new.elements.get(text) != Some(element) {
            removed.push(as_element(element));
        }
    }
    let mut added = Vec::new();
    for (text, element) in &new.elements {
        if old.elements.get(text) != Some(element) {
            added.push(as_element(element));
        }
    }
    commands.extend(rules.elements("delete", name, removed));
    commands.extend(rules.elements("add", name, added));
}

fn as_element((key, data): &(Value, Option<Value>)) -> Value {
    match data {
        Some(data) => json!([key, data]),
        None => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(endpoints: &[&str]) -> RuleSet {
        let mut set = Set::new(vec![("type", json!("inet_service")), ("map", json!("verdict"))]);
        let mut chains = BTreeMap::new();
        for name in endpoints {
            set.insert(json!(name.len()), Some(json!({"goto": {"target": name}})));
            chains.insert((*name).to_owned(), Chain { hook: None, rules: vec![json!([{"accept": null}])] });
        }
        RuleSet { table: "t".into(), sets: BTreeMap::from([("m".into(), set)]), chains }
    }

    fn verbs(commands: &[Value]) -> Vec<String> {
        let first =
            |value: &Value| value.as_object().and_then(|map| map.keys().next().cloned()).unwrap_or_default();
        commands
            .iter()
            .map(|command| format!("{} {}", first(command), first(&command[first(command)])))
            .collect()
    }

    #[test]
    fn equal_tables_need_no_command() {
        assert!(diff(&rules(&["a", "bb"]), &rules(&["a", "bb"])).is_empty());
    }

    #[test]
    fn only_what_changed_is_touched_and_in_order() {
        let commands = diff(&rules(&["a", "bb"]), &rules(&["a", "ccc"]));
        assert_eq!(
            verbs(&commands),
            ["add chain", "flush chain", "add rule", "delete element", "add element", "delete chain"]
        );
        assert_eq!(commands[3]["delete"]["element"]["elem"], json!([[2, {"goto": {"target": "bb"}}]]));
    }

    #[test]
    fn a_changed_verdict_replaces_the_element() {
        let commands = diff(&rules(&["a"]), &rules(&["b"]));
        assert_eq!(commands[3]["delete"]["element"]["elem"][0][1], json!({"goto": {"target": "a"}}));
        assert_eq!(commands[4]["add"]["element"]["elem"][0][1], json!({"goto": {"target": "b"}}));
    }

    #[test]
    fn a_full_sync_starts_from_an_empty_table() {
        let full = rules(&["a"]).full();
        assert_eq!(
            verbs(&full),
            ["add table", "delete table", "add table", "add map", "add chain", "add rule", "add element"]
        );
    }
}
