//! `balsa token`: what lets agents and servers join.

use clap::{Subcommand, ValueEnum};

use super::changes::duration;
use crate::connect::ConnectArgs;
use crate::output;

/// Make tokens with which agents and servers join
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(Create),
}

/// Make a token; it is shown once
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    balsa agent --server 10.0.0.5:6443 --token \"$(balsa token create --ttl 1h)\" --name worker-1")]
struct Create {
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    ttl: String,
    /// What it is for. One for servers leads to the cluster's keys
    #[arg(long, value_enum, default_value = "agent")]
    usage: Usage,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Usage {
    Agent,
    Server,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Command::Create(create) = args.command;
    if create.usage == Usage::Server {
        let told = super::member::token(&create.connect.open()?.remote, &create.ttl).await?;
        return output::line(told.token);
    }
    let life = duration(&create.ttl).map_err(anyhow::Error::msg)?;
    let seconds = life.and_then(|life| u32::try_from(life.as_secs()).ok()).filter(|seconds| *seconds > 0);
    let Some(seconds) = seconds else {
        anyhow::bail!("--ttl {}: a token must end some time after now", create.ttl);
    };
    let token = create.connect.open()?.remote.create_token(seconds).await?;
    output::line(token.token)
}
