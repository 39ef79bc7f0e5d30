//! `balsa exec`: a command in a container; and what `attach` and `cp` share with it.

use std::io::Write as _;
use std::process::ExitCode;

use balsa_client::remote::ExecOutput;
use balsa_proto::v1::exec_request::{Message, Size, Start};
use balsa_proto::v1::{ExecRequest, ObjectKey, exec_response};
use balsa_rt::{TaskKind, spawn};
use bytes::Bytes;
use futures::StreamExt as _;
use std::io::IsTerminal as _;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::pods;
use super::terminal::{self, Raw};
use crate::connect::{ConnectArgs, Session};

/// Run a command in a container
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa exec web -- ls /                # and end with its exit code\n  \
    balsa exec -it web -- sh              # a shell\n  \
    balsa exec -i web -c db -- psql < dump.sql")]
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
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let session = args.connect.open()?;
    let pod = pods::find(&session, &args.pod).await?;
    let container = pods::container(&pod, args.container.as_deref())?;
    let key = pods::key(&pod);
    let start = Start {
        pod: Some(ObjectKey { namespace: key.namespace.to_string(), name: key.name.to_string() }),
        container,
        command: args.command,
        stdin: args.stdin,
        tty: terminal_wanted(args.stdin, args.tty),
        attach: false,
    };
    let code = converse(&session, start).await?;
    if code != 0 {
        crate::output::tell(format_args!("command terminated with exit code {code}"));
    }
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// Whether there is to be a terminal; says so when there is none here to go with it.
pub(super) fn terminal_wanted(stdin: bool, tty: bool) -> bool {
    let is_terminal = std::io::stdin().is_terminal();
    if tty && !is_terminal {
        crate::output::tell("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    tty && (is_terminal || !stdin)
}

/// Joins the user's streams with a command's or a container's; the exit code.
pub(super) async fn converse(session: &Session, start: Start) -> anyhow::Result<i32> {
    let (stdin, tty) = (start.stdin, start.tty);
    let (input, output) = session.remote.exec(start).await?;
    let _raw = if tty && stdin { Raw::enter() } else { None };
    if tty {
        spawn(TaskKind::Helper, resizes(input.clone()));
    }
    if stdin {
        spawn(TaskKind::Helper, feed(input.clone()));
    }
    // Held until the command ends: without it the server would take the input for closed.
    let code = show(output).await;
    drop(input);
    code
}

/// Writes what the command writes; its exit code.
async fn show(mut output: ExecOutput) -> anyhow::Result<i32> {
    while let Some(message) = output.next().await {
        match message? {
            exec_response::Message::Stdout(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
            }
            exec_response::Message::Stderr(bytes) => std::io::stderr().write_all(&bytes)?,
            exec_response::Message::ExitCode(code) => return Ok(code),
        }
    }
    anyhow::bail!("the connection to the container broke before the command had ended")
}

/// Passes standard input on until it ends.
async fn feed(input: mpsc::Sender<ExecRequest>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let message = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => Message::CloseStdin(true),
            Ok(count) => Message::Stdin(Bytes::copy_from_slice(&buffer[..count])),
        };
        let last = matches!(message, Message::CloseStdin(_));
        if input.send(ExecRequest { message: Some(message) }).await.is_err() || last {
            return;
        }
    }
}

/// Tells the size of the terminal, now and whenever it changes.
async fn resizes(input: mpsc::Sender<ExecRequest>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((width, height)) = terminal::size() {
            let message = Some(Message::Resize(Size { width, height }));
            if input.send(ExecRequest { message }).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}
