//! Exec and attach.
//!
//! The standard input goes through a pipe of our own and a task that empties it, because dropping
//! bollard's writer does not end the input, and ours does.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_rt::TaskKind;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models as docker;
use bollard::query_parameters as query;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::DockerRuntime;
use super::errors::failed;
use crate::{
    AttachOptions, ContainerId, Error, ExecConfig, ExecOutput, ExecSession, OutputStream, Result,
    Runtime as _, SessionControl, StreamKind,
};

/// Bytes that may wait on their way to a process.
const STDIN_BUFFER: usize = 64 << 10;

impl DockerRuntime {
    /// The session, and Docker's id of it.
    pub(super) async fn start_exec(
        &self,
        id: &ContainerId,
        config: &ExecConfig,
    ) -> Result<(ExecSession, String)> {
        if config.command.is_empty() {
            return Err(Error::Invalid { message: "there is no command to run".to_owned() });
        }
        let body = docker::ExecConfig {
            attach_stdin: Some(config.stdin),
            attach_stdout: Some(config.stdout),
            attach_stderr: Some(config.stderr && !config.tty),
            tty: Some(config.tty),
            env: Some(config.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: Some(config.command.clone()),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            ..Default::default()
        };
        let exec = self.docker.create_exec(id.as_str(), body).await.map_err(failed)?.id;
        let options = StartExecOptions { detach: false, tty: config.tty, output_capacity: None };
        let StartExecResults::Attached { output, input } =
            self.docker.start_exec(&exec, Some(options)).await.map_err(failed)?
        else {
            return Err(Error::Other { message: "Docker did not attach to the command".to_owned() });
        };
        let session = ExecSession {
            stdin: config.stdin.then(|| pumped(input)),
            output: output_stream(output),
            control: Arc::new(ExecControl { runtime: self.clone(), exec: exec.clone() }),
        };
        Ok((session, exec))
    }

    pub(super) async fn join_streams(
        &self,
        id: &ContainerId,
        options: &AttachOptions,
    ) -> Result<ExecSession> {
        let state = self.inspect(id).await?;
        if !state.status.is_alive() {
            return Err(Error::Conflict { message: format!("container {} is not running", state.name) });
        }
        let asked = query::AttachContainerOptionsBuilder::default()
            .stream(true)
            .logs(false)
            .stdin(options.stdin)
            .stdout(options.stdout)
            .stderr(options.stderr && !state.tty)
            .build();
        let joined = self.docker.attach_container(id.as_str(), Some(asked)).await.map_err(failed)?;
        Ok(ExecSession {
            stdin: options.stdin.then(|| pumped(joined.input)),
            output: output_stream(joined.output),
            control: Arc::new(AttachControl { runtime: self.clone(), id: id.clone() }),
        })
    }

    pub(super) async fn run_to_end(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let config =
            ExecConfig { command: command.to_vec(), stdout: true, stderr: true, ..ExecConfig::default() };
        let (session, exec) = self.start_exec(id, &config).await?;
        match tokio::time::timeout(timeout, ExecOutput::collect(session)).await {
            Ok(result) => result,
            Err(_) => {
                self.kill_exec(id, &exec).await;
                Err(Error::Timeout {
                    what: format!("command {:?} in container {id}", command.join(" ")),
                    seconds: timeout.as_secs(),
                })
            }
        }
    }

    /// Docker has no call to end a command. On the machine that runs it, its process can be killed;
    /// the cgroup proves that the number is that container's process and no other.
    async fn kill_exec(&self, id: &ContainerId, exec: &str) {
        let Ok(found) = self.docker.inspect_exec(exec).await else { return };
        let (Some(true), Some(pid), Some(container)) = (found.running, found.pid, found.container_id) else {
            return;
        };
        let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) else { return };
        let cgroup = tokio::fs::read_to_string(format!("/proc/{pid}/cgroup")).await.unwrap_or_default();
        if !cgroup.contains(&container) {
            tracing::debug!(%id, pid, "the timed-out command is not on this machine and goes on");
            return;
        }
        if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)
        {
            tracing::debug!(%id, pid, %error, "the timed-out command cannot be killed");
        }
    }
}

fn pumped(mut input: Pin<Box<dyn AsyncWrite + Send>>) -> Pin<Box<dyn AsyncWrite + Send>> {
    let (ours, mut theirs) = tokio::io::duplex(STDIN_BUFFER);
    balsa_rt::spawn(TaskKind::Helper, async move {
        // A process that ended no longer reads: that is its right and no error.
        if let Err(error) = tokio::io::copy(&mut theirs, &mut input).await {
            tracing::debug!(%error, "the process no longer reads its input");
        }
        let _ = input.shutdown().await;
    });
    Box::pin(ours)
}

fn output_stream(
    pieces: impl Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>> + Send + 'static,
) -> OutputStream {
    pieces
        .filter_map(|piece| {
            std::future::ready(match piece {
                Ok(LogOutput::StdIn { .. }) => None,
                Ok(LogOutput::StdErr { message }) => Some(Ok((StreamKind::Stderr, message))),
                Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                    Some(Ok((StreamKind::Stdout, message)))
                }
                Err(error) => Some(Err(failed(error))),
            })
        })
        .filter(|piece: &Result<(StreamKind, Bytes)>| {
            std::future::ready(!matches!(piece, Ok((_, bytes)) if bytes.is_empty()))
        })
        .boxed()
}

struct ExecControl {
    runtime: DockerRuntime,
    exec: String,
}

#[async_trait]
impl SessionControl for ExecControl {
    async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let options = query::ResizeExecOptionsBuilder::default().w(width.into()).h(height.into()).build();
        self.runtime.docker.resize_exec(&self.exec, options).await.map_err(failed)
    }

    async fn exit_code(&self) -> Result<i32> {
        // Docker tells the end of a command to nobody, so it is asked, less and less often.
        let mut pause = Duration::from_millis(2);
        loop {
            let found = self.runtime.docker.inspect_exec(&self.exec).await.map_err(failed)?;
            if let (Some(false), Some(code)) = (found.running, found.exit_code) {
                return Ok(code as i32);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

struct AttachControl {
    runtime: DockerRuntime,
    id: ContainerId,
}

#[async_trait]
impl SessionControl for AttachControl {
    async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let options =
            query::ResizeContainerTTYOptionsBuilder::default().w(width.into()).h(height.into()).build();
        self.runtime.docker.resize_container_tty(self.id.as_str(), options).await.map_err(failed)
    }

    async fn exit_code(&self) -> Result<i32> {
        self.runtime.wait(&self.id).await
    }
}
