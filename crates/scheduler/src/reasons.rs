//! Why a pod has no node, in Kubernetes' words.

use std::collections::BTreeMap;
use std::fmt;

/// Why one node is out of question for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is not enough of a resource left.
    Insufficient(String),
    /// There is not enough of a resource even when the node is empty.
    TooSmall(String),
    /// The node has a taint that the pod does not tolerate: key and value.
    Taint(String, String),
    /// Something that other pods' going could change.
    Occupied(&'static str),
    /// Something that is so whoever else is there.
    Unfit(&'static str),
}

impl Reason {
    /// Whether the going of other pods could help.
    pub(crate) fn is_resolvable(&self) -> bool {
        matches!(self, Self::Insufficient(_) | Self::Occupied(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insufficient(resource) | Self::TooSmall(resource) => write!(f, "Insufficient {resource}"),
            Self::Taint(key, value) => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Occupied(text) | Self::Unfit(text) => f.write_str(text),
        }
    }
}

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    nodes: usize,
    /// What is wrong with the pod itself, whatever the node.
    pod: Option<String>,
    counts: BTreeMap<String, usize>,
    hopeless: usize,
    hopeful: usize,
    /// Others make way: there is nothing to say about why they do not.
    makes_way: bool,
}

impl Reasons {
    /// Reasons of `nodes` nodes, none of them told yet.
    pub(crate) fn over(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// The pod itself cannot go anywhere.
    pub(crate) fn pod_itself(nodes: usize, message: String) -> Self {
        Self { nodes, pod: Some(message), hopeless: nodes, ..Self::default() }
    }

    /// Whether the going of other pods could help somewhere.
    pub(crate) fn is_hopeful(&self) -> bool {
        self.hopeful > 0
    }

    /// Others make way for the pod.
    pub(crate) fn note_preemption(&mut self) {
        self.makes_way = true;
    }

    /// One node is out, for these reasons.
    pub(crate) fn add(&mut self, reasons: &[Reason]) {
        for reason in reasons {
            *self.counts.entry(reason.to_string()).or_default() += 1;
        }
        if reasons.iter().all(Reason::is_resolvable) {
            self.hopeful += 1;
        } else {
            self.hopeless += 1;
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nodes;
        if total == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let list = |mut parts: Vec<String>| {
            parts.sort();
            parts.join(", ")
        };
        let what = match &self.pod {
            Some(message) => message.clone(),
            None => list(self.counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect()),
        };
        let mut help = Vec::new();
        if self.hopeful > 0 {
            help.push(format!("{} No preemption victims found for incoming pod", self.hopeful));
        }
        if self.hopeless > 0 {
            help.push(format!("{} Preemption is not helpful for scheduling", self.hopeless));
        }
        write!(f, "0/{total} nodes are available: {what}.")?;
        if self.makes_way {
            return Ok(());
        }
        write!(f, " preemption: 0/{total} nodes are available: {}.", list(help))
    }
}
