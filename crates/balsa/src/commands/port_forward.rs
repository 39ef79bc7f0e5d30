//! `balsa port-forward`: ports of this machine that lead to ports of a pod.

use std::net::IpAddr;

use anyhow::{Context as _, anyhow};
use balsa_model::Key;
use balsa_proto::v1::PortForwardRequest;
use balsa_proto::v1::port_forward_request::Message;
use balsa_rt::{TaskKind, spawn};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::pods;
use crate::connect::{ConnectArgs, Session};

/// Let ports of this machine lead to ports of a pod
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa port-forward web 8080           # localhost:8080 leads to port 8080 of web\n  \
    balsa port-forward deploy/web 8080:80 # to port 80 of one of its pods\n  \
    balsa port-forward web :80            # some free port of this machine")]
pub(crate) struct Args {
    /// Pod, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Ports: the pod's, or this machine's and the pod's
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Address of this machine to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    address: IpAddr,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let pod = pods::find(&session, &args.pod).await?;
    let key = pods::key(&pod);
    let mut listeners = Vec::new();
    for text in &args.ports {
        let (local, remote) = ports(text)?;
        let listener = TcpListener::bind((args.address, local)).await;
        let listener = listener.with_context(|| format!("cannot listen on {}:{local}", args.address))?;
        crate::output::line(format_args!("Forwarding from {} -> {remote}", listener.local_addr()?))?;
        listeners.push(serve(&session, &key, listener, remote));
    }
    // They end only in an error.
    futures::future::try_join_all(listeners).await.map(drop)
}

/// This machine's port and the pod's.
fn ports(text: &str) -> anyhow::Result<(u16, u16)> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok();
    let local = if local.is_empty() { Some(0) } else { number(local) };
    let remote = number(remote).filter(|port| *port > 0);
    local.zip(remote).ok_or_else(|| anyhow!("{text} is no [LOCAL:]REMOTE pair of ports"))
}

async fn serve(session: &Session, pod: &Key, listener: TcpListener, port: u16) -> anyhow::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let (remote, pod) = (session.remote.clone(), pod.clone());
        spawn(TaskKind::Connection, async move {
            // Who reads no more goes on being forwarded.
            let _ = crate::output::line(format_args!("Handling connection for {port}"));
            // The connection has failed, and not the forward: the next one may do better.
            if let Err(error) = forward(&remote, &pod, port, socket).await {
                crate::output::tell(format_args!("port {port}: {error}"));
            }
        });
    }
}

async fn forward(
    remote: &balsa_client::remote::RemoteBackend,
    pod: &Key,
    port: u16,
    socket: TcpStream,
) -> anyhow::Result<()> {
    let (input, mut output) = remote.port_forward(pod, port).await?;
    let (mut reader, mut writer) = socket.into_split();
    let upward = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let message = match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => Message::Close(true),
                Ok(count) => Message::Data(Bytes::copy_from_slice(&buffer[..count])),
            };
            let last = matches!(message, Message::Close(_));
            let taken = input.send(PortForwardRequest { message: Some(message) }).await.is_ok();
            if last || !taken {
                // The pod decides when it is over.
                std::future::pending::<()>().await;
            }
        }
    };
    let downward = async {
        while let Some(bytes) = output.next().await {
            writer.write_all(&bytes?).await?;
        }
        writer.shutdown().await?;
        anyhow::Ok(())
    };
    tokio::select! {
        () = upward => Ok(()),
        done = downward => done,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pairs_of_ports() {
        assert_eq!(ports("80").unwrap(), (80, 80));
        assert_eq!(ports("8080:80").unwrap(), (8080, 80));
        assert_eq!(ports(":80").unwrap(), (0, 80));
        for wrong in ["", "0", "80:", "a", "1:2:3", "70000"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
