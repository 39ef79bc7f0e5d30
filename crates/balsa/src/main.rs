//! The binary: `up`, `down`, `server`, `agent` and the command line.
//!
//! Here is only: read the command line, run what it says, and turn the outcome into an exit code: 0
//! for success, 1 for a failure (told in one line on standard error), 2 for wrong usage, and the
//! command's own for `exec`.

// They panic when nobody reads any more: `output` has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod connect;
mod fetch;
mod jsonpath;
mod kubeconfig;
mod manifest;
mod output;
mod run;
mod settings;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

/// How long the tasks of a server or an agent may take to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = commands::Cli::parse().command;
    let serves = command.serves();
    let outcome = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(commands::run(command));
        if serves {
            // The database closes with the last task that has it, which must be before the process comes apart.
            runtime.shutdown_timeout(CLOSE_LIMIT);
        } else {
            // A read of standard input cannot be cancelled; nobody waits for it.
            runtime.shutdown_background();
        }
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            balsa_rt::telemetry::tell_end(&told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what it comes from, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read a: no such file").context("starting");
        assert_eq!(told(&error), "starting: cannot read a: no such file");
    }
}
