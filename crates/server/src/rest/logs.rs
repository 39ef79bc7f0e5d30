//! `GET …/pods/<name>/log`: a container's log as plain text, as it comes.

use std::io;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, Reason};
use balsa_proto::agent::{OpenLogs, StreamRequest, open, stream_request};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use tokio::sync::mpsc;

use super::ResourceCall;
use super::query::Query;
use crate::sessions::LOST;

/// Serves a log.
pub(super) async fn serve(call: ResourceCall) -> Result<Response, Failure> {
    if call.call.method != Method::GET {
        return Err(call.not_allowed());
    }
    call.authorize("get")?;
    let query = &call.call.query;
    let target = call.call.front.container(&call.key(), query.get("container"))?;
    let mut logs = options(query, &call)?;
    if !logs.previous {
        target.require_started()?;
    }
    logs.container.clone_from(&target.container);
    let mut stream = call.call.front.open_stream(&target, open::What::Logs(logs)).await?;
    // An error before the first byte is an answer; later ones break the text off. After the end there is nothing
    // to be had any more, also when nothing came before it.
    let (first, ended) = match stream.from_agent.recv().await.and_then(|request| request.message) {
        Some(stream_request::Message::End(end)) if !end.error.is_empty() => {
            return Err(Failure::new(Reason::parse(&end.reason).unwrap_or(Reason::InternalError), end.error));
        }
        Some(stream_request::Message::Data(data)) => (data.bytes, false),
        Some(stream_request::Message::End(_)) => (Bytes::new(), true),
        Some(stream_request::Message::Open(_)) => (Bytes::new(), false),
        None => return Err(Failure::new(Reason::ServiceUnavailable, LOST)),
    };
    let rest = futures::stream::try_unfold(stream, |mut stream| async move {
        let bytes: Option<Bytes> = next_bytes(&mut stream.from_agent).await?;
        Ok::<_, io::Error>(bytes.map(|bytes| (bytes, stream)))
    });
    let body = match ended {
        true => Body::empty(),
        false => Body::from_stream(futures::StreamExt::chain(futures::stream::iter([Ok(first)]), rest)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The next bytes of a stream; `None` at its end. That the node went away is no end.
async fn next_bytes(stream: &mut mpsc::Receiver<StreamRequest>) -> io::Result<Option<Bytes>> {
    match stream.recv().await.and_then(|request| request.message) {
        Some(stream_request::Message::Data(data)) => Ok(Some(data.bytes)),
        Some(stream_request::Message::End(end)) if !end.error.is_empty() => Err(io::Error::other(end.error)),
        Some(_) => Ok(None),
        None => Err(io::Error::other(LOST)),
    }
}

fn options(query: &Query, call: &ResourceCall) -> Result<OpenLogs, Failure> {
    let tail_lines = query.number("tailLines")?;
    if tail_lines.is_some_and(|lines: i64| lines < 0) {
        return Err(Failure::bad_request("tailLines: Invalid value: must be greater than or equal to 0"));
    }
    let since_time = match query.number::<i64>("sinceSeconds")? {
        Some(seconds) if seconds > 0 => {
            let since = call.call.front.engine.clock().now();
            let since = since.saturating_sub(jiff::SignedDuration::from_secs(seconds));
            since.map(|t| t.to_string()).unwrap_or_default()
        }
        Some(_) => return Err(Failure::bad_request("sinceSeconds: Invalid value: must be greater than 0")),
        None => query.get("sinceTime").to_owned(),
    };
    Ok(OpenLogs {
        container: String::new(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines,
        since_time,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
    })
}
