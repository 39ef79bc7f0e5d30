//! Who owns which fields: `metadata.managedFields`, and server-side apply.
//!
//! - [`Set`]: the paths that somebody owns, FieldsV1; [`Element`]: one step of a path;
//! - [`Managed`]: the entries of an object; [`Said`]: what a client's object says of them;
//! - [`update`]: every write that is no apply: whoever changes a field owns it then;
//! - [`apply`](fn@apply): a configuration merged into an object; what its applier no longer names goes, unless
//!   somebody else owns it; what others own and have otherwise is a conflict;
//! - `shape`, `walk`, `compare`, `merge`: objects by their schema.
//!
//! Pure: times and names come in as arguments. The text of `managedFields` is kept beside the object's
//! value, never in it.

mod apply;
mod compare;
mod element;
mod managed;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod update;
mod walk;

pub use apply::{Applied, ApplyError, Conflict, apply};
pub use compare::Comparison;
pub use element::{Element, ElementError};
pub use managed::{Entry, Managed, ManagedError, Operation, Said, same_but_times};
pub use set::Set;
pub use update::update;

use jiff::Timestamp;

use crate::field::{FieldErrors, Path};
use crate::kind::{KindRef, Subresource};
use crate::strategy::Part;

/// Longest name of a manager, in bytes.
pub const MANAGER_MAX: usize = 128;

/// Who writes what.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The name of the manager; empty: nobody said.
    pub manager: &'a str,
    /// The kind of the object.
    pub kind: KindRef,
    /// Which part of it is written.
    pub part: Part,
    /// Another part that has a name of its own, such as `scale`; empty: as `part` says.
    pub subresource: &'a str,
    /// Now, in whole seconds.
    pub now: Timestamp,
}

impl Writer<'_> {
    /// The name in entries.
    fn name(&self) -> &str {
        if self.manager.is_empty() { "unknown" } else { self.manager }
    }

    fn api_version(&self) -> String {
        self.kind.descriptor().api_version()
    }

    fn subresource(&self) -> &str {
        match self.part {
            _ if !self.subresource.is_empty() => self.subresource,
            Part::Status => "status",
            Part::Sub(subresource) => subresource.path(),
            Part::Main | Part::Whole => "",
        }
    }

    fn has_status(&self) -> bool {
        self.kind.descriptor().has(Subresource::Status)
    }

    /// Whether a write of this part sets that field of an object; what it does not set is not owned.
    fn covers(&self, top: &str) -> bool {
        match self.part {
            Part::Main => !self.has_status() || top != "status",
            Part::Status | Part::Sub(Subresource::Approval) => matches!(top, "status" | "metadata"),
            Part::Sub(_) => top != "status",
            Part::Whole => true,
        }
    }
}

/// A path as conflicts name it: `.spec.containers[name="main"].image`.
pub(crate) fn shown(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// The name of a manager that did not give one: the program in its `User-Agent`.
pub fn manager_of_user_agent(user_agent: &str) -> String {
    let program = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in program.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// Refuses names of managers that are too long or cannot be printed.
pub fn validate_manager(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.len() > MANAGER_MAX {
        errors.too_long(path, MANAGER_MAX);
    }
    for (i, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let code = u32::from(c);
        errors.invalid(path, name, format!("invalid character U+{code:04X} (at position {i})"));
    }
}

/// Refuses entries that nobody could have.
pub fn validate(managed: &Managed, errors: &mut FieldErrors) {
    let path = Path::new("metadata").child("managedFields");
    for (i, entry) in managed.entries.iter().enumerate() {
        let path = path.index(i);
        validate_manager(&entry.manager, &path.child("manager"), errors);
        if entry.subresource.len() > 256 {
            errors.too_long(&path.child("subresource"), 256);
        }
    }
}
