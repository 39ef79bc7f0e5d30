//! Streams into pods: exec, attach and port-forward, in every form in which clients ask for them.
//!
//! | | WebSocket | SPDY/3.1 |
//! | --- | --- | --- |
//! | exec, attach | [`channels`]: `v5.channel.k8s.io` and all before it | [`console`], kubectl up to 1.29 |
//! | port-forward | [`ports`]: `v4.channel.k8s.io`; [`tunnel`]: SPDY inside, kubectl since 1.31 | [`forward`] |
//!
//! A watch or a log is [`told`] over a WebSocket to who asks for one.
//!
//! Below all of the others is one [`PodStream`](crate::sessions::PodStream) for each command or connection,
//! which the agent of the pod's node opens. Each direction of a stream is a loop of its own, so that a
//! process that neither reads nor ends never holds up what it writes, and every queue is short: who is slow
//! is felt by who is fast. When the client goes, both ends of the pod's stream are dropped, and the agent
//! lets go.

mod channels;
mod console;
mod forward;
mod ports;
pub(super) mod told;
mod tunnel;
mod upgrade;
mod websocket;

use axum::response::Response;
use balsa_model::Failure;
use balsa_proto::agent::{OpenAttach, OpenExec, open};
use http::Method;
use hyper::upgrade::OnUpgrade;

use super::ResourceCall;
use upgrade::Upgrade;

/// Serves a request for a stream.
pub(super) async fn serve(call: ResourceCall, switch: Option<OnUpgrade>) -> Result<Response, Failure> {
    // A WebSocket is a GET to HTTP, and a new thing to authorization.
    match call.call.method {
        Method::GET => {
            call.authorize("get")?;
            call.authorize("create")?;
        }
        Method::POST => drop(call.authorize("create")?),
        _ => return Err(call.not_allowed()),
    }
    match call.path.subresource.as_str() {
        "portforward" => port_forward(&call, switch).await,
        _ => command(&call, switch).await,
    }
}

/// What a client wants of a command's streams.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

async fn command(call: &ResourceCall, switch: Option<OnUpgrade>) -> Result<Response, Failure> {
    let query = &call.call.query;
    let target = call.call.front.container(&call.key(), query.get("container"))?;
    // Who asks for no stream learns first what is wrong with the pod.
    let upgrade = Upgrade::wanted(&call.call.headers, switch)?;
    target.require_started()?;
    let tty = query.flag("tty");
    let wanted = Wanted {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // A terminal has one output.
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    if !(stdin || stdout || stderr) {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let container = target.container.clone();
    let what = if call.path.subresource == "attach" {
        open::What::Attach(OpenAttach { container, stdin, stdout, stderr, tty })
    } else {
        let command = query.all("command");
        if command.is_empty() {
            return Err(Failure::bad_request("you must specify at least 1 command for the container"));
        }
        open::What::Exec(OpenExec { container, command, stdin, stdout, stderr, tty })
    };
    let front = call.call.front.clone();
    match upgrade {
        Upgrade::WebSocket(socket) => {
            let form = channels::negotiate(&socket.offered)?;
            let stream = front.open_stream(&target, what).await?;
            Ok(socket.accept(form.name, move |io| channels::serve(io, stream, form, wanted)))
        }
        Upgrade::Spdy(spdy) => {
            let Some(version) = spdy.choose(console::VERSIONS) else {
                return Ok(spdy.refuse(console::VERSIONS));
            };
            let stream = front.open_stream(&target, what).await?;
            Ok(spdy.accept(version, move |io| console::serve(io, stream, version, wanted)))
        }
    }
}

async fn port_forward(call: &ResourceCall, switch: Option<OnUpgrade>) -> Result<Response, Failure> {
    let front = call.call.front.clone();
    let target = front.pod(&call.key())?;
    let upgrade = Upgrade::wanted(&call.call.headers, switch)?;
    target.require_running()?;
    match upgrade {
        Upgrade::WebSocket(socket) if socket.offers(tunnel::PROTOCOL) => {
            Ok(socket.accept(tunnel::PROTOCOL, move |io| tunnel::serve(io, front, target)))
        }
        Upgrade::WebSocket(socket) => {
            let form = ports::negotiate(&socket.offered)?;
            let wanted = ports::wanted(&call.call.query)?;
            Ok(socket.accept(form.name, move |io| ports::serve(io, front, target, form, wanted)))
        }
        Upgrade::Spdy(spdy) => match spdy.choose(forward::VERSIONS) {
            Some(version) => Ok(spdy.accept(version, move |io| forward::serve(io, front, target))),
            None => Ok(spdy.refuse(forward::VERSIONS)),
        },
    }
}
