//! `balsa attach`: a container's own streams.

use balsa_proto::v1::ObjectKey;
use balsa_proto::v1::exec_request::Start;

use super::{exec, pods};
use crate::connect::ConnectArgs;

/// Join the streams of a container's own process
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa attach web                      # what it writes from now on\n  \
    balsa attach -it shell -c main        # and what is typed goes to it")]
pub(crate) struct Args {
    /// Pod, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Container, where the pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container has a terminal
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let pod = pods::find(&session, &args.pod).await?;
    let container = pods::container(&pod, args.container.as_deref())?;
    let key = pods::key(&pod);
    // Its own process has a terminal or has none: that was decided when it began.
    let has_terminal = pods::has_terminal(&pod, &container);
    if args.tty && !has_terminal {
        crate::output::tell(format_args!(
            "error: Unable to use a TTY - container {container} did not allocate one"
        ));
    }
    let tty = has_terminal && exec::terminal_wanted(args.stdin, args.tty);
    if args.stdin && tty {
        crate::output::tell("If you don't see a command prompt, try pressing enter.");
    }
    let start = Start {
        pod: Some(ObjectKey { namespace: key.namespace.to_string(), name: key.name.to_string() }),
        container,
        command: Vec::new(),
        stdin: args.stdin,
        tty,
        attach: true,
    };
    exec::converse(&session, start).await?;
    Ok(())
}
