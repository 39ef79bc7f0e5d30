//! Sets of paths, as managers own them: FieldsV1.
//!
//! A tree, sorted at every level. Invariant: a node is a member of the set or has members below it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::element::{Element, ElementError};

/// A set of paths. A path in it says nothing about those above or below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<Node>,
}

/// What a set says of one path, and of the paths below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    pub(super) member: bool,
    pub(super) below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// A set with nothing in it.
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Its nodes, sorted.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A set of nodes in any order; of nodes for the same element the sum counts.
    pub(super) fn of_nodes(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| !node.is_empty());
        if !nodes.is_sorted_by(|a, b| a.element < b.element) {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
            nodes.dedup_by(|again, first| {
                let same = again.element == first.element;
                if same {
                    first.member |= again.member;
                    first.below = first.below.union(&again.below);
                }
                same
            });
        }
        Self { nodes }
    }

    /// Puts a path in. The empty path is the object itself, which nobody owns.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.nodes.binary_search_by(|node| node.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, Node { element: first.clone(), member: false, below: Self::new() });
                at
            }
        };
        if let Some(node) = self.nodes.get_mut(at) {
            if rest.is_empty() {
                node.member = true;
            } else {
                node.below.insert(rest);
            }
        }
    }

    /// Whether a path is in it.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.node(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.node(first).is_some_and(|node| node.below.has(rest)),
        }
    }

    /// What it says of one element.
    pub(super) fn node(&self, element: &Element) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.element.cmp(element)).ok()?;
        self.nodes.get(at)
    }

    /// Joins two sorted lists of nodes; `both` says what becomes of elements that both have.
    fn joined(
        &self,
        other: &Self,
        keep_left: bool,
        keep_right: bool,
        both: impl Fn(&Node, &Node) -> Node,
    ) -> Self {
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut nodes = Vec::with_capacity(self.nodes.len());
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) => a.element.cmp(&b.element),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            match order {
                Ordering::Less => nodes.extend(left.next().filter(|_| keep_left).cloned()),
                Ordering::Greater => nodes.extend(right.next().filter(|_| keep_right).cloned()),
                Ordering::Equal => {
                    if let (Some(a), Some(b)) = (left.next(), right.next()) {
                        nodes.push(both(a, b));
                        nodes.pop_if(|node| node.is_empty());
                    }
                }
            }
        }
    }

    /// What is in one of them.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.joined(other, true, true, |a, b| Node {
            element: a.element.clone(),
            member: a.member || b.member,
            below: a.below.union(&b.below),
        })
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.joined(other, false, false, |a, b| Node {
            element: a.element.clone(),
            member: a.member && b.member,
            below: a.below.intersection(&b.below),
        })
    }

    /// What is in this one and not in the other, path by path.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.joined(other, true, false, |a, b| Node {
            element: a.element.clone(),
            member: a.member && !b.member,
            below: a.below.difference(&b.below),
        })
    }

    /// What is in this one and neither in the other nor below a path of the other.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.joined(other, true, false, |a, b| Node {
            element: a.element.clone(),
            member: a.member && !b.member,
            below: if b.member { Self::new() } else { a.below.recursive_difference(&b.below) },
        })
    }

    /// The part of it whose first step `keep` wants.
    #[must_use]
    pub(super) fn retained(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.nodes.retain(|node| matches!(&node.element, Element::Field(name) if keep(name)));
        self
    }

    /// All its paths: those of a level first, then those below.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut out);
        out
    }

    fn collect_paths(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for node in self.nodes.iter().filter(|node| node.member) {
            let mut path = prefix.clone();
            path.push(node.element.clone());
            out.push(path);
        }
        for node in &self.nodes {
            prefix.push(node.element.clone());
            node.below.collect_paths(prefix, out);
            prefix.pop();
        }
    }

    /// Reads FieldsV1. Kinds of steps that this release does not know are passed over.
    ///
    /// # Errors
    /// When it is no FieldsV1.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Below>(text).map(|below| below.set)
    }

    /// Writes FieldsV1.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        self.write_nodes(out, false);
        out.push('}');
    }

    fn write_nodes(&self, out: &mut String, mut comma: bool) {
        for node in &self.nodes {
            if comma {
                out.push(',');
            }
            comma = true;
            out.push('"');
            node.element.write_escaped(out);
            out.push_str("\":{");
            let self_too = node.member && !node.below.is_empty();
            if self_too {
                out.push_str("\".\":{}");
            }
            node.below.write_nodes(out, self_too);
            out.push('}');
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

impl<'p> FromIterator<&'p [Element]> for Set {
    fn from_iter<T: IntoIterator<Item = &'p [Element]>>(paths: T) -> Self {
        let mut set = Self::new();
        paths.into_iter().for_each(|path| set.insert(path));
        set
    }
}

/// What stands behind a key of FieldsV1: whether the key is a member itself, and what is below it.
struct Below {
    member: bool,
    set: Set,
}

impl<'de> Deserialize<'de> for Below {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tree;
        impl<'de> Visitor<'de> for Tree {
            type Value = Below;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of FieldsV1")
            }

            fn visit_unit<E>(self) -> Result<Below, E> {
                Ok(Below { member: true, set: Set::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Below, A::Error> {
                let (mut member, mut nodes) = (false, Vec::new());
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if key == "." {
                        member = true;
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match Element::parse(&key) {
                        Ok(element) => {
                            let Below { member, set } = map.next_value()?;
                            nodes.push(Node { element, member, below: set });
                        }
                        Err(ElementError::Unknown(_)) => drop(map.next_value::<IgnoredAny>()?),
                        Err(error) => return Err(A::Error::custom(error)),
                    }
                }
                let set = Set::of_nodes(nodes);
                Ok(Below { member: member || set.is_empty(), set })
            }
        }
        deserializer.deserialize_any(Tree)
    }
}
