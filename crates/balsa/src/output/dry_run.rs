//! `--dry-run` of commands that write: nothing is changed, and who says what would be.

/// Who is asked what a command would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rehearsal {
    /// Nobody: it is done.
    #[default]
    None,
    /// Only this program: nothing is sent but questions.
    Client,
    /// The server, which checks it all and keeps nothing.
    Server,
}

impl Rehearsal {
    /// What stands behind what was not really done.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

/// The option.
#[derive(clap::Args)]
pub(crate) struct DryRun {
    /// Change nothing: have the server check it all, or with =client send it nothing
    #[arg(long = "dry-run", value_name = "HOW", num_args = 0..=1, require_equals = true, default_value = "none",
        default_missing_value = "server", hide_default_value = true)]
    pub(crate) by: Rehearsal,
}
