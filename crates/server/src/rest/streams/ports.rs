//! Port-forward over WebSocket, as kube-rs and the Python and JavaScript clients ask for it: two channels
//! a port, 2i for data and 2i + 1 for errors, and the first message on each is the port's number.
//!
//! A channel cannot be closed; the WebSocket ends when all its ports have.

use balsa_model::Failure;
use balsa_proto::agent::{
    Channel, Data, OpenPortForward, StreamResponse, open, stream_request, stream_response,
};
use balsa_rt::TaskKind;
use bytes::Bytes;
use futures::SinkExt as _;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::channels::{broken_off, choose};
use super::upgrade::Io;
use super::websocket::{self, Form, Sink, Source};
use crate::front::Front;
use crate::pods::Target;
use crate::rest::query::Query;
use crate::sessions::PodStream;

/// All forms, best first.
const FORMS: [Form; 5] = [
    Form { name: "v4.channel.k8s.io", text: false, status: true, closes: false },
    Form { name: "v4.base64.channel.k8s.io", text: true, status: true, closes: false },
    Form { name: "channel.k8s.io", text: false, status: false, closes: false },
    Form { name: "base64.channel.k8s.io", text: true, status: false, closes: false },
    Form { name: "", text: false, status: false, closes: false },
];

/// Channels are one byte, and two make a port; the text forms have one digit.
const MAX_PORTS: usize = 127;
const MAX_TEXT_PORTS: usize = 5;
/// Messages that wait to be sent; each is tens of KiB at most.
const DEPTH: usize = 8;

/// The best form that the client offers.
pub(super) fn negotiate(offered: &[String]) -> Result<Form, Failure> {
    choose(&FORMS, offered)
}

/// The ports that a client wants.
pub(super) fn wanted(query: &Query) -> Result<Vec<u16>, Failure> {
    let mut ports = Vec::new();
    for text in query.all("ports").iter().flat_map(|ports| ports.split(',')) {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        ports.push(port.ok_or_else(|| Failure::bad_request(format!("invalid port \"{text}\"")))?);
    }
    if ports.is_empty() {
        return Err(Failure::bad_request("query parameter \"ports\" is required"));
    }
    if ports.len() > MAX_PORTS {
        return Err(Failure::bad_request(format!("at most {MAX_PORTS} ports at a time")));
    }
    Ok(ports)
}

/// Forwards one connection to each port until all have ended or the client goes.
pub(super) async fn serve(io: Io, front: Front, target: Target, form: Form, mut ports: Vec<u16>) {
    if form.text {
        ports.truncate(MAX_TEXT_PORTS);
    }
    let (mut sink, mut source) = websocket::open(io).await;
    let (to_client, mut outgoing) = mpsc::channel(DEPTH);
    let mut inputs = Vec::new();
    for (i, port) in ports.into_iter().enumerate() {
        let (input, from_client) = mpsc::channel(DEPTH);
        inputs.push(Some(input));
        let data = (i * 2) as u8;
        for channel in [data, data + 1] {
            if sink.send(form.encode(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        let one = One { data, port, form, to_client: to_client.clone() };
        let (front, target) = (front.clone(), target.clone());
        balsa_rt::spawn(TaskKind::Connection, async move { one.forward(&front, &target, from_client).await });
    }
    // Each port has its own: the channel closes when the last has ended.
    drop(to_client);
    let ended = tokio::select! {
        ended = send(&mut sink, &mut outgoing) => ended,
        () = receive(&mut source, form, inputs) => false,
    };
    if ended {
        websocket::finish(sink, source).await;
    }
}

async fn send(sink: &mut Sink, outgoing: &mut mpsc::Receiver<Message>) -> bool {
    while let Some(message) = outgoing.recv().await {
        if sink.send(message).await.is_err() {
            return false;
        }
    }
    true
}

/// Gives each port what is for it, until the client goes.
async fn receive(source: &mut Source, form: Form, mut inputs: Vec<Option<mpsc::Sender<Bytes>>>) {
    while let Some(message) = websocket::next(source).await {
        let Some((channel, bytes)) = form.decode(message) else { continue };
        let Some(input) = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else {
            continue;
        };
        // The port may have ended; the others go on.
        if let Some(sender) = input
            && sender.send(bytes).await.is_err()
        {
            *input = None;
        }
    }
}

/// One port.
struct One {
    data: u8,
    port: u16,
    form: Form,
    to_client: mpsc::Sender<Message>,
}

impl One {
    async fn forward(&self, front: &Front, target: &Target, mut from_client: mpsc::Receiver<Bytes>) {
        let port = self.port.into();
        let what = open::What::PortForward(OpenPortForward { port, ..OpenPortForward::default() });
        let error = match front.open_stream(target, what).await {
            Ok(PodStream { mut from_agent, to_agent }) => {
                let upstream = async {
                    while let Some(bytes) = from_client.recv().await {
                        let data = Data { channel: Channel::Data.into(), bytes };
                        let message = Some(stream_response::Message::Data(data));
                        if to_agent.send(StreamResponse { message }).await.is_err() {
                            // The pod has closed; its end is on the way.
                            std::future::pending::<()>().await;
                        }
                    }
                };
                tokio::select! {
                    error = self.downstream(&mut from_agent) => error,
                    // The client has gone.
                    () = upstream => return,
                }
            }
            Err(failure) => failure.message,
        };
        if !error.is_empty() {
            let _ = self.to_client.send(self.form.encode(self.data + 1, error.as_bytes())).await;
        }
    }

    /// To the end of the connection; the error in which it ended, if it did.
    async fn downstream(&self, from_agent: &mut mpsc::Receiver<balsa_proto::agent::StreamRequest>) -> String {
        loop {
            match from_agent.recv().await.and_then(|request| request.message) {
                Some(stream_request::Message::Data(data)) => {
                    if self.to_client.send(self.form.encode(self.data, &data.bytes)).await.is_err() {
                        return String::new();
                    }
                }
                Some(stream_request::Message::Open(_)) => {}
                Some(stream_request::Message::End(end)) => return end.error,
                None => return broken_off().error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_repeated_or_listed() {
        let ports = |text: &str| wanted(&Query::parse(Some(text)));
        assert_eq!(ports("ports=80&ports=443,8080").unwrap(), [80, 443, 8080]);
        for wrong in ["", "ports=", "ports=0", "ports=65536", "ports=http"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
        assert!(ports(&format!("ports={}", vec!["1"; 200].join(","))).is_err());
    }
}
