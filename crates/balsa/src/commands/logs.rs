//! `balsa logs`: what containers wrote, also after they are gone.

use anyhow::bail;
use balsa_client::remote::RemoteBackend;
use balsa_model::Key;
use balsa_model::selector::LabelSelector;
use balsa_proto::v1::LogsRequest;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::Pod;
use std::io::Write as _;

use super::changes::duration;
use super::pods;
use crate::connect::ConnectArgs;

/// Show what containers wrote
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa logs web                      # of a pod\n  \
    balsa logs deploy/web -f            # of one of a Deployment's pods, and go on\n  \
    balsa logs web -c sidecar --tail=20 # the last lines of one container\n  \
    balsa logs web --previous           # of the container before its last restart\n  \
    balsa logs -l app=web --prefix      # of all pods with that label")]
pub(crate) struct Args {
    /// Pod, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD", required_unless_present = "selector")]
    pod: Option<String>,
    /// Container, where a pod has several
    #[arg(value_name = "CONTAINER", conflicts_with = "container_option")]
    container: Option<String>,
    /// Container, where a pod has several
    #[arg(short = 'c', long = "container", value_name = "NAME", id = "container_option")]
    container_option: Option<String>,
    /// All containers
    #[arg(long)]
    all_containers: bool,
    /// All pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "pod")]
    selector: Option<String>,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// Of the container before its last restart
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines; -1: all [default: all, or 10 with -l]
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is not older than this
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// Only what is not older than this time, RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    since_time: Option<String>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    /// At most so many bytes
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<i64>,
    /// Each line with its pod and container
    #[arg(long)]
    prefix: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    fn request(&self, container: &str) -> anyhow::Result<LogsRequest> {
        let since = self.since.as_deref().map(duration).transpose().map_err(anyhow::Error::msg)?.flatten();
        let tail = self.tail.or(self.selector.is_some().then_some(10));
        Ok(LogsRequest {
            pod: None,
            container: container.to_owned(),
            follow: self.follow,
            previous: self.previous,
            tail_lines: tail.filter(|lines| *lines >= 0),
            // What is younger than a second is a second old.
            since_seconds: since.map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
            since_time: self.since_time.clone().unwrap_or_default(),
            timestamps: self.timestamps,
            limit_bytes: self.limit_bytes,
        })
    }

    fn containers(&self, pod: &Pod) -> anyhow::Result<Vec<String>> {
        if self.all_containers {
            return Ok(pods::containers(pod));
        }
        let named = self.container_option.as_deref().or(self.container.as_deref());
        Ok(vec![pods::container(pod, named)?])
    }
}

/// One container's log.
struct Source {
    pod: Key,
    prefix: String,
    request: LogsRequest,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let found = match (&args.pod, &args.selector) {
        (Some(word), _) => vec![pods::find(&session, word).await?],
        (None, Some(selector)) => pods::matching(&session, LabelSelector::parse(selector)?).await?,
        (None, None) => bail!("say which pod"),
    };
    if found.is_empty() {
        crate::output::tell(format_args!("No resources found in {} namespace.", session.namespace));
    }
    let mut sources = Vec::new();
    for pod in &found {
        for container in args.containers(pod)? {
            let pod = pods::key(pod);
            let prefix = if args.prefix { format!("[pod/{}/{container}] ", pod.name) } else { String::new() };
            sources.push(Source { pod, prefix, request: args.request(&container)? });
        }
    }
    let mut logs = Vec::new();
    for source in sources {
        logs.push(open(&session.remote, source).await?);
    }
    let mut output = if args.follow && logs.len() > 1 {
        stream::select_all(logs).boxed()
    } else {
        stream::iter(logs).flatten().boxed()
    };
    while let Some(piece) = output.next().await {
        let mut out = std::io::stdout().lock();
        out.write_all(&piece?)?;
        out.flush()?;
    }
    Ok(())
}

type Pieces = BoxStream<'static, anyhow::Result<Bytes>>;

async fn open(remote: &RemoteBackend, source: Source) -> anyhow::Result<Pieces> {
    let Source { pod, prefix, request } = source;
    let pieces = remote.logs(&pod, request).await?.map(|piece| piece.map_err(anyhow::Error::from));
    if prefix.is_empty() {
        return Ok(pieces.boxed());
    }
    let mut lines = Lines { prefix, rest: BytesMut::new() };
    // The end of the stream is told as an empty piece, so that a last line without its end is not lost.
    let ended = pieces.map(Some).chain(stream::iter([None]));
    let prefixed = ended.map(move |piece| match piece {
        Some(piece) => piece.map(|piece| lines.add(&piece)),
        None => Ok(lines.finish()),
    });
    Ok(prefixed.boxed())
}

/// Puts a prefix before every line.
struct Lines {
    prefix: String,
    rest: BytesMut,
}

impl Lines {
    fn add(&mut self, piece: &[u8]) -> Bytes {
        self.rest.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(&self.rest.split_to(end + 1));
        }
        out.freeze()
    }

    fn finish(&mut self) -> Bytes {
        if self.rest.is_empty() { Bytes::new() } else { self.add(b"\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_their_prefix_wherever_they_are_cut() {
        let mut lines = Lines { prefix: "> ".to_owned(), rest: BytesMut::new() };
        let mut out = Vec::new();
        for piece in ["one\ntw", "o\n", "", "three"] {
            out.extend_from_slice(&lines.add(piece.as_bytes()));
        }
        out.extend_from_slice(&lines.finish());
        assert_eq!(String::from_utf8_lossy(&out), "> one\n> two\n> three\n");
    }
}
