//! Bodies of answers that end when the server stops: watches and sessions would hold it up for ever.
//!
//! What is there to be sent is sent; a body that has nothing to send is ended. gRPC clients are told that
//! the server goes (`UNAVAILABLE`), so that they go on at another one; REST clients see a watch end as it
//! does every half hour.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use balsa_rt::CancellationToken;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// How long a body may have nothing to send before it is ended: a list that is being made goes on.
const QUIET: Duration = Duration::from_millis(300);

/// Marks an answer that knows by itself what is to be done when the server stops, and ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndsItself;

/// Whether a request is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|content_type| content_type.starts_with(b"application/grpc"))
}

/// See the module.
pub(super) struct UntilStopped {
    body: Body,
    is_grpc: bool,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl UntilStopped {
    /// `answer`, ended when `stopping` is cancelled unless it ends itself.
    pub(super) fn answer(answer: Response, is_grpc: bool, stopping: CancellationToken) -> Response {
        if answer.extensions().get::<EndsItself>().is_some() {
            return answer;
        }
        answer.map(|body| Self::body(body, is_grpc, stopping))
    }

    /// `body`, ended when `stopping` is cancelled. What has a known length is not touched.
    fn body(body: Body, is_grpc: bool, stopping: CancellationToken) -> Body {
        if HttpBody::size_hint(&body).exact().is_some() {
            return body;
        }
        let stopped = Box::pin(async move {
            stopping.cancelled_owned().await;
            tokio::time::sleep(QUIET).await;
        });
        Body::new(Self { body, is_grpc, stopped, ended: false }.boxed_unsync())
    }
}

impl HttpBody for UntilStopped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.stopped.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        if !self.is_grpc {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("14"));
        trailers.insert("grpc-message", HeaderValue::from_static("the%20server%20is%20stopping"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_sent_and_then_it_ends() {
        let token = CancellationToken::new();
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"event"))]);
        let stream = futures::StreamExt::chain(first, futures::stream::pending());
        let mut body = UntilStopped::body(Body::from_stream(stream), true, token.clone());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "event");
        token.cancel();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "14");
        assert!(body.frame().await.is_none());
    }
}
