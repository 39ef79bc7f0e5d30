//! `balsa cp`: files to and from a container, by `tar` on both sides.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use balsa_client::remote::ExecOutput;
use balsa_proto::v1::exec_request::{Message, Start};
use balsa_proto::v1::{ExecRequest, ObjectKey, exec_response};
use balsa_rt::{TaskKind, spawn};
use bytes::Bytes;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::pods;
use crate::connect::{ConnectArgs, Session};

/// Copy files to or from a container
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa cp ./site web:/www              # /www in the container becomes a copy of ./site\n  \
    balsa cp web:/var/log/app.log app.log # and back\n\n\
    The container and this machine need `tar`.")]
pub(crate) struct Args {
    /// PATH, or POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// PATH, or POD:PATH
    #[arg(value_name = "TO")]
    to: String,
    /// Container, where the pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    match (remote(&args.from), remote(&args.to)) {
        (Some((pod, path)), None) => {
            let pod = pods::find(&session, pod).await?;
            download(&session, &pod, args.container.as_deref(), path, Path::new(&args.to)).await
        }
        (None, Some((pod, path))) => {
            let pod = pods::find(&session, pod).await?;
            upload(&session, &pod, args.container.as_deref(), Path::new(&args.from), path).await
        }
        _ => bail!("one of FROM and TO must be POD:PATH, and the other a path here"),
    }
}

/// The pod and the path of `pod:path`.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (pod, path) = text.split_once(':')?;
    // `./a:b` and `/a:b` are files of this machine.
    (!pod.is_empty() && !pod.starts_with(['.', '/'])).then_some((pod, path))
}

/// The folder of a path, and its name in there.
fn split(path: &str) -> anyhow::Result<(&str, &str)> {
    let path = path.trim_end_matches('/');
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    if matches!(name, "" | "." | "..") {
        bail!("{path}/ has no name; say which file or folder is meant");
    }
    Ok((if folder.is_empty() { "/" } else { folder }, name))
}

async fn start(
    session: &Session,
    pod: &Pod,
    container: Option<&str>,
    command: &[&str],
    stdin: bool,
) -> anyhow::Result<(mpsc::Sender<ExecRequest>, ExecOutput)> {
    let key = pods::key(pod);
    let start = Start {
        pod: Some(ObjectKey { namespace: key.namespace.to_string(), name: key.name.to_string() }),
        container: pods::container(pod, container)?,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin,
        tty: false,
        attach: false,
    };
    Ok(session.remote.exec(start).await?)
}

fn tar(arguments: &[&std::ffi::OsStr]) -> Command {
    let mut command = Command::new("tar");
    command.args(arguments).kill_on_drop(true);
    command
}

async fn upload(
    session: &Session,
    pod: &Pod,
    container: Option<&str>,
    from: &Path,
    to: &str,
) -> anyhow::Result<()> {
    let (folder, name) = split(to)?;
    let from = from.canonicalize().with_context(|| from.display().to_string())?;
    let local_name = from.file_name().ok_or_else(|| anyhow!("{} has no name", from.display()))?;
    let parent = from.parent().unwrap_or(Path::new("/"));
    // Renamed on this side, where tar is known to be able to.
    let rename = format!("--transform=s|^{}|{name}|", regex_quoted(&local_name.to_string_lossy()));
    let mut packing = tar(&[
        "-c".as_ref(),
        "-f".as_ref(),
        "-".as_ref(),
        rename.as_ref(),
        "-C".as_ref(),
        parent.as_os_str(),
        "--".as_ref(),
        local_name,
    ])
    .stdout(Stdio::piped())
    .spawn()
    .context("tar")?;
    let mut archive = packing.stdout.take().context("tar has no output")?;
    let (input, output) = start(session, pod, container, &["tar", "-xmf", "-", "-C", folder], true).await?;
    let feeding = spawn(TaskKind::Helper, async move {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(count @ 1..) = archive.read(&mut buffer).await {
            let message = Some(Message::Stdin(Bytes::copy_from_slice(&buffer[..count])));
            if input.send(ExecRequest { message }).await.is_err() {
                return;
            }
        }
        let _ = input.send(ExecRequest { message: Some(Message::CloseStdin(true)) }).await;
        // Held until the other side ends.
        input.closed().await;
    });
    let unpacked = receive(output, tokio::io::sink()).await;
    feeding.abort();
    unpacked?;
    let packed = packing.wait().await?;
    if packed.success() { Ok(()) } else { Err(anyhow!("tar ended with {packed}")) }
}

fn regex_quoted(text: &str) -> String {
    let special = |c: char| matches!(c, '.' | '*' | '[' | ']' | '^' | '$' | '\\' | '|');
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

async fn download(
    session: &Session,
    pod: &Pod,
    container: Option<&str>,
    from: &str,
    to: &Path,
) -> anyhow::Result<()> {
    let (folder, name) = split(from)?;
    // Unpacked beside its place and then moved there: what a container packs may not choose where it lands.
    let into = if to.is_dir() { to.join(name) } else { to.to_owned() };
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = parent.join(format!(".balsa-cp-{}", std::process::id()));
    std::fs::create_dir(&beside).with_context(|| beside.display().to_string())?;
    let copied = unpack(session, pod, container, (folder, name), &beside).await;
    let moved = copied
        .and_then(|()| std::fs::rename(beside.join(name), &into).with_context(|| into.display().to_string()));
    std::fs::remove_dir_all(&beside).with_context(|| beside.display().to_string())?;
    moved
}

async fn unpack(
    session: &Session,
    pod: &Pod,
    container: Option<&str>,
    (folder, name): (&str, &str),
    into: &Path,
) -> anyhow::Result<()> {
    let mut unpacking = tar(&["-x".as_ref(), "-f".as_ref(), "-".as_ref(), "-C".as_ref(), into.as_os_str()])
        .stdin(Stdio::piped())
        .spawn()
        .context("tar")?;
    let archive = unpacking.stdin.take().context("tar has no input")?;
    let (input, output) =
        start(session, pod, container, &["tar", "-cf", "-", "-C", folder, "--", name], false).await?;
    let received = receive(output, archive).await;
    drop(input);
    received?;
    let unpacked = unpacking.wait().await?;
    if unpacked.success() { Ok(()) } else { Err(anyhow!("tar ended with {unpacked}")) }
}

/// Takes what a command writes to its end; its errors are shown, and its exit code is one.
async fn receive(mut output: ExecOutput, mut into: impl tokio::io::AsyncWrite + Unpin) -> anyhow::Result<()> {
    while let Some(message) = output.next().await {
        match message? {
            exec_response::Message::Stdout(bytes) => into.write_all(&bytes).await?,
            exec_response::Message::Stderr(bytes) => {
                crate::output::tell_part(String::from_utf8_lossy(&bytes))
            }
            exec_response::Message::ExitCode(0) => return Ok(into.shutdown().await?),
            exec_response::Message::ExitCode(code) => bail!("tar in the container ended with {code}"),
        }
    }
    bail!("the connection to the container broke before everything was copied")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn which_side_is_which() {
        assert_eq!(remote("web:/www"), Some(("web", "/www")));
        assert_eq!(remote("./a:b"), None);
        assert_eq!(remote("/a:b"), None);
        assert_eq!(remote("file"), None);
    }

    #[test]
    fn folders_and_names() {
        assert_eq!(split("/var/log/app").unwrap(), ("/var/log", "app"));
        assert_eq!(split("/www/").unwrap(), ("/", "www"));
        assert_eq!(split("file").unwrap(), (".", "file"));
        assert!(split("/").is_err() && split("a/..").is_err());
    }

    #[test]
    fn names_are_taken_literally() {
        assert_eq!(regex_quoted("a.b*c"), "a\\.b\\*c");
    }
}
