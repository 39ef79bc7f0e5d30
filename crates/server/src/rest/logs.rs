//! `GET …/pods/<name>/log`: a container's log as plain text, as it comes.

use std::io;

use axum::body::Body;
use axum::response::Response;
use balsa_model::field::{FieldErrors, Path};
use balsa_model::{Descriptor, Failure, Reason};
use balsa_proto::agent::{OpenLogs, StreamRequest, open, stream_request};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::ResourceCall;
use super::query::Query;
use crate::sessions::LOST;

/// What refusals say the options of a log are.
const LOG_OPTIONS: Descriptor = Descriptor::namespaced("", "v1", "PodLogOptions", "", "", "");

/// Serves a log.
pub(super) async fn serve(call: ResourceCall) -> Result<Response, Failure> {
    if call.call.method != Method::GET {
        return Err(call.not_allowed());
    }
    call.authorize("get")?;
    let query = &call.call.query;
    let mut logs = options(query, &call.path.name, call.call.front.engine.clock().now())?;
    let Some(target) = call.call.front.container_if_placed(&call.key(), query.get("container"))? else {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    };
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

/// What of a log is wanted, judged before the pod is looked at.
fn options(query: &Query, pod: &str, now: Timestamp) -> Result<OpenLogs, Failure> {
    let (tail_lines, limit_bytes) = (query.number("tailLines")?, query.number("limitBytes")?);
    let (since_seconds, since_time) = (query.number("sinceSeconds")?, query.get("sinceTime"));
    let mut errors = FieldErrors::new();
    if let Some(lines) = tail_lines.filter(|lines| *lines < 0) {
        errors.invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = limit_bytes.filter(|bytes| *bytes < 1) {
        errors.invalid(&Path::new("limitBytes"), bytes, "must be greater than 0");
    }
    let since_time = match since_seconds {
        Some(_) if !since_time.is_empty() => {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.forbidden(&Path::new("[]"), why);
            String::new()
        }
        Some(seconds) => {
            if seconds < 1 {
                errors.invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0");
            }
            let since = now.saturating_sub(jiff::SignedDuration::from_secs(seconds));
            since.map(|time| time.to_string()).unwrap_or_default()
        }
        None => time(since_time)?,
    };
    Failure::invalid(&LOG_OPTIONS, pod, errors).map_or(Ok(()), Err)?;
    Ok(OpenLogs {
        container: String::new(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines,
        since_time,
        timestamps: query.flag("timestamps"),
        limit_bytes,
    })
}

/// A time of RFC 3339; empty: none.
fn time(text: &str) -> Result<String, Failure> {
    if text.is_empty() || text.parse::<Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Failure::bad_request(format!(
        "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_are_told_together() {
        let asked = |text: &str| options(&Query::parse(Some(text)), "p", Timestamp::UNIX_EPOCH);
        assert_eq!(asked("sinceTime=2020-01-01T00:00:00Z").unwrap().since_time, "2020-01-01T00:00:00Z");
        assert_eq!(asked("sinceTime=x").unwrap_err().reason, Reason::BadRequest);
        let both = asked("sinceTime=2020-01-01T00:00:00Z&sinceSeconds=3").unwrap_err().message;
        let why = "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        assert_eq!(both, format!("PodLogOptions \"p\" is invalid: {why}"));
        let failure = asked("tailLines=-1&limitBytes=0&sinceSeconds=0").unwrap_err();
        let fields: Vec<&str> = failure.causes.iter().map(|cause| &*cause.field).collect();
        assert_eq!(
            (&*failure.kind, fields),
            ("PodLogOptions", vec!["tailLines", "limitBytes", "sinceSeconds"])
        );
    }
}
