//! The command line: one command a file.

mod agent;
mod api_resources;
mod apply;
mod attach;
mod backup;
mod certs;
mod changes;
mod cp;
mod delete;
mod describe;
mod down;
mod events;
mod exec;
mod get;
mod logs;
mod member;
mod pods;
mod port_forward;
mod scale;
mod server;
mod status;
mod terminal;
mod token;
mod up;
mod version;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use changes::{duration, may_resume, until};

/// A container orchestrator in one binary that speaks the Kubernetes API.
#[derive(Parser)]
#[command(
    name = "balsa",
    version,
    propagate_version = true,
    after_help = "Start here:\n  \
        sudo balsa up                    # a cluster on this machine\n  \
        balsa get nodes                  # what the cluster consists of\n  \
        balsa apply -f manifest.yaml     # make it so\n  \
        balsa get pods -A -w             # watch it happen\n\n\
        `balsa COMMAND --help` explains a command, with examples."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Up(up::Args),
    Down(down::Args),
    Server(server::Args),
    Agent(agent::Args),
    Get(get::Args),
    Describe(describe::Args),
    Apply(apply::Args),
    Delete(delete::Args),
    Scale(scale::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Cp(cp::Args),
    PortForward(port_forward::Args),
    Events(events::Args),
    Wait(wait::Args),
    ApiResources(api_resources::Args),
    Version(version::Args),
    Status(status::Args),
    Token(token::Args),
    Member(member::Args),
    Backup(backup::Args),
    Certs(certs::Args),
}

impl Command {
    /// Whether it is a server or an agent, and not one request.
    pub(crate) fn serves(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Server(_) | Self::Agent(_))
    }
}

/// Runs a command.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Up(args) => Box::pin(up::run(args)).await.map(done),
        Command::Down(args) => Box::pin(down::run(args)).await.map(done),
        Command::Server(args) => Box::pin(server::run(args)).await.map(done),
        Command::Agent(args) => Box::pin(agent::run(args)).await.map(done),
        Command::Get(args) => Box::pin(get::run(args)).await.map(done),
        Command::Describe(args) => describe::run(args).await.map(done),
        Command::Apply(args) => apply::run(args).await.map(done),
        Command::Delete(args) => Box::pin(delete::run(args)).await.map(done),
        Command::Scale(args) => scale::run(args).await.map(done),
        Command::Logs(args) => logs::run(args).await.map(done),
        Command::Exec(args) => exec::run(args).await,
        Command::Attach(args) => attach::run(args).await.map(done),
        Command::Cp(args) => Box::pin(cp::run(args)).await.map(done),
        Command::PortForward(args) => port_forward::run(args).await.map(done),
        Command::Events(args) => events::run(args).await.map(done),
        Command::Wait(args) => wait::run(args).await.map(done),
        Command::ApiResources(args) => api_resources::run(args).await.map(done),
        Command::Version(args) => version::run(args).await.map(done),
        Command::Status(args) => status::run(args).await.map(done),
        Command::Token(args) => token::run(args).await.map(done),
        Command::Member(args) => Box::pin(member::run(args)).await.map(done),
        Command::Backup(args) => Box::pin(backup::run(args)).await.map(done),
        Command::Certs(args) => certs::run(args).await.map(done),
    }
}
