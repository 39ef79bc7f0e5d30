//! What simulated programs do over time: containers' own, and commands run in them.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_rt::TaskKind;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::SimulatedRuntime;
use super::program::{self, Step};
use crate::{
    AttachOptions, ContainerId, Error, ExecConfig, ExecSession, LogLine, LogOptions, LogStream, Result,
    Runtime as _, SessionControl, StreamKind, with_default_tag,
};

/// Pieces of output and bytes of input that may be on their way.
const PIECES: usize = 64;
const STDIN_BUFFER: usize = 4 << 10;

impl SimulatedRuntime {
    /// Starts a container; a task remains only if its program has something timed to do.
    pub(super) fn start_program(&self, id: &ContainerId) -> Result<()> {
        let config = self.read(|machine| machine.get(id).map(|found| found.config.clone()))?;
        let image = with_default_tag(&config.image);
        if let Some(message) = self.0.behaviour.failing_starts.get(&image) {
            self.change(|machine| machine.refuse_start(id, message))?;
            return Err(Error::Start { message: message.clone() });
        }
        let now = self.0.clock.now();
        let Some(life) = self.change(|machine| machine.start(id, now))? else { return Ok(()) };
        let mut steps = match self.0.behaviour.exits.get(&image) {
            Some((delay, exit_code)) => vec![Step::Sleep(*delay), Step::Exit(*exit_code)],
            None => {
                let argv: Vec<String> = config.command.into_iter().chain(config.args).flatten().collect();
                program::steps(&argv).unwrap_or_default()
            }
        }
        .into_iter();
        let waits = self.act(id, life, &mut steps)?;
        if let Some(delay) = waits {
            let (machine, id) = (self.clone(), id.clone());
            balsa_rt::spawn(TaskKind::Helper, async move {
                tokio::time::sleep(delay).await;
                // A container that was removed or started anew meanwhile has nothing left to do.
                while let Ok(Some(delay)) = machine.act(&id, life, &mut steps) {
                    tokio::time::sleep(delay).await;
                }
            });
        }
        Ok(())
    }

    /// Does what can be done at once; gives the delay before the rest.
    fn act(
        &self,
        id: &ContainerId,
        life: u64,
        steps: &mut impl Iterator<Item = Step>,
    ) -> Result<Option<std::time::Duration>> {
        for step in steps {
            let ends = matches!(step, Step::Exit(_));
            let now = self.0.clock.now();
            let waits = self.change(|machine| {
                let container = machine.running(id)?;
                if container.life != life {
                    return Err(Error::Conflict { message: format!("container {id} was started anew") });
                }
                match step {
                    Step::Print(stream, line) => machine.write(id, stream, line.into(), now).map(|()| None),
                    Step::Sleep(delay) => Ok(Some(delay)),
                    Step::Exit(exit_code) => machine.finish(id, exit_code, false, now).map(|()| None),
                    Step::OnTerm(action) => {
                        container.on_term = Some(action);
                        Ok(None)
                    }
                    Step::Copy => Ok(None),
                }
            })?;
            if ends || waits.is_some() {
                return Ok(waits);
            }
        }
        Ok(None)
    }

    pub(super) fn log_stream(&self, id: &ContainerId, options: &LogOptions) -> Result<LogStream> {
        let (written, forgotten) =
            self.read(|machine| machine.get(id).map(|found| (found.log.len() as u64, found.forgotten)))?;
        let end = forgotten + written;
        let first = options.tail.map_or(forgotten, |lines| end.saturating_sub(lines).max(forgotten));
        let (since, until, follow) = (options.since, options.until, options.follow);
        let wanted = move |line: &LogLine| {
            since.is_none_or(|since| line.time >= since) && until.is_none_or(|until| line.time <= until)
        };
        Ok(self
            .lines(id.clone(), first, (!follow).then_some(end))
            .filter_map(move |line| std::future::ready(wanted(&line).then_some(Ok(line))))
            .boxed())
    }

    /// The lines from number `first` on, up to `last`, or until the container ends.
    fn lines(
        &self,
        id: ContainerId,
        first: u64,
        last: Option<u64>,
    ) -> impl futures::Stream<Item = LogLine> + Send + 'static {
        futures::stream::unfold((self.clone(), id, first), move |(runtime, id, next)| async move {
            if last.is_some_and(|last| next >= last) {
                return None;
            }
            let (line, number) = runtime
                .until(|machine| {
                    let Ok(container) = machine.get(&id) else { return Some(None) };
                    let number = next.max(container.forgotten);
                    match container.log.get((number - container.forgotten) as usize) {
                        Some(line) => Some(Some((line.clone(), number))),
                        None if container.state.status.is_alive() => None,
                        None => Some(None),
                    }
                })
                .await?;
            Some((line, (runtime, id, number + 1)))
        })
    }

    pub(super) fn start_exec(&self, id: &ContainerId, config: &ExecConfig) -> Result<ExecSession> {
        if config.command.is_empty() {
            return Err(Error::Invalid { message: "there is no command to run".to_owned() });
        }
        self.change(|machine| machine.running(id).map(|_| ()))?;
        // What it does not know, it repeats.
        let steps = program::steps(&config.command).unwrap_or_else(|| {
            vec![Step::Print(StreamKind::Stdout, config.command.join(" ")), Step::Exit(0)]
        });
        let (ours, theirs) = tokio::io::duplex(STDIN_BUFFER);
        let (pieces, output) = mpsc::channel(PIECES);
        let ended = watch::Sender::new(None);
        let control = Arc::new(Control { ended: ended.subscribe() });
        let (runtime, id, config) = (self.clone(), id.clone(), config.clone());
        let has_stdin = config.stdin;
        balsa_rt::spawn(TaskKind::Helper, async move {
            let program = run(steps, &config, theirs, pieces);
            // A command ends with its container.
            let exit_code = tokio::select! {
                exit_code = program => exit_code,
                _ = runtime.wait(&id) => 128 + super::SIGKILL,
            };
            ended.send_replace(Some(exit_code));
        });
        Ok(ExecSession {
            stdin: has_stdin.then(|| Box::pin(ours) as _),
            output: ReceiverStream::new(output).map(Ok).boxed(),
            control,
        })
    }

    pub(super) fn join_streams(&self, id: &ContainerId, options: &AttachOptions) -> Result<ExecSession> {
        let (end, copies) = self.change(|machine| {
            let container = machine.running(id)?;
            let argv: Vec<String> =
                container.config.command.iter().chain(&container.config.args).flatten().cloned().collect();
            let copies = program::steps(&argv).is_some_and(|steps| steps.contains(&Step::Copy));
            Ok::<_, Error>((container.forgotten + container.log.len() as u64, copies))
        })?;
        let (ours, theirs) = tokio::io::duplex(STDIN_BUFFER);
        if options.stdin && copies {
            let (runtime, id) = (self.clone(), id.clone());
            balsa_rt::spawn(TaskKind::Helper, async move { runtime.copy_lines(&id, theirs).await });
        }
        let options = *options;
        let output = self.lines(id.clone(), end, None).filter_map(move |line| {
            let wanted = match line.stream {
                StreamKind::Stdout => options.stdout,
                StreamKind::Stderr => options.stderr,
            };
            let bytes = Bytes::from([&line.bytes[..], b"\n"].concat());
            std::future::ready(wanted.then_some(Ok((line.stream, bytes))))
        });
        Ok(ExecSession {
            stdin: options.stdin.then(|| Box::pin(ours) as _),
            output: output.boxed(),
            control: Arc::new(ContainerControl { runtime: self.clone(), id: id.clone() }),
        })
    }

    /// `cat` as a container's program: writes each line it reads, ends when the input does and nobody
    /// else may give it more.
    async fn copy_lines(&self, id: &ContainerId, input: DuplexStream) -> Result<()> {
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.write_log(id, StreamKind::Stdout, line)?;
        }
        let once = self.read(|machine| machine.get(id).map(|found| found.config.stdin_once))?;
        if once { self.finish(id, 0) } else { Ok(()) }
    }
}

async fn run(
    steps: Vec<Step>,
    config: &ExecConfig,
    mut stdin: DuplexStream,
    output: mpsc::Sender<(StreamKind, Bytes)>,
) -> i32 {
    for step in steps {
        match step {
            Step::Print(stream, line) => {
                let stream = if config.tty { StreamKind::Stdout } else { stream };
                let wanted = if stream == StreamKind::Stdout { config.stdout } else { config.stderr };
                if wanted {
                    // A reader that is gone misses it; the program goes on, as it would.
                    let _ = output.send((stream, Bytes::from(line + "\n"))).await;
                }
            }
            Step::Sleep(delay) => tokio::time::sleep(delay).await,
            Step::Exit(exit_code) => return exit_code,
            Step::OnTerm(_) => {}
            Step::Copy => copy(config, &mut stdin, &output).await,
        }
    }
    0
}

async fn copy(config: &ExecConfig, stdin: &mut DuplexStream, output: &mpsc::Sender<(StreamKind, Bytes)>) {
    let mut buffer = BytesMut::new();
    while config.stdin && stdin.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        if config.stdout {
            let _ = output.send((StreamKind::Stdout, buffer.split().freeze())).await;
        }
    }
}

struct Control {
    ended: watch::Receiver<Option<i32>>,
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, _width: u16, _height: u16) -> Result<()> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<i32> {
        let mut ended = self.ended.clone();
        let code = ended.wait_for(Option::is_some).await.map(|code| code.unwrap_or_default());
        code.map_err(|_| Error::Other { message: "the command was given up".to_owned() })
    }
}

struct ContainerControl {
    runtime: SimulatedRuntime,
    id: ContainerId,
}

#[async_trait]
impl SessionControl for ContainerControl {
    async fn resize(&self, _width: u16, _height: u16) -> Result<()> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<i32> {
        self.runtime.wait(&self.id).await
    }
}
