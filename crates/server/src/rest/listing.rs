//! The body of a list, made while it is sent: the stored bytes of its objects between commas.
//!
//! However long a list is, a piece of it is made only when the connection takes one, so that what a list needs
//! beside its objects, which the state has anyway, does not grow with it. Its length is known beforehand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use balsa_model::{KindRef, Object};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;

/// Bytes of a piece: some TLS records, and little for each of thousands of lists.
const PIECE: usize = 64 * 1024;
/// Objects from this size on are pieces of their own, shared with the state instead of copied.
const LARGE: usize = 16 * 1024;

/// What ends a list.
const TAIL: &[u8] = b"]}\n";

/// A list of one kind.
pub(super) struct Listing {
    /// Made, and not yet sent.
    ready: Vec<u8>,
    items: std::vec::IntoIter<Arc<Object>>,
    /// A large object that comes after what is ready.
    large: Option<Bytes>,
    /// Where an object's bytes go on after its type, which the list has said already.
    typed: usize,
    /// Bytes that are still to be sent.
    left: usize,
    first: bool,
}

impl Listing {
    /// The list of `items` with the metadata `meta`.
    pub(super) fn new(kind: KindRef, meta: &Value, items: Vec<Arc<Object>>) -> Self {
        let descriptor = kind.descriptor();
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
            descriptor.kind,
            descriptor.api_version()
        );
        let typed = kind.prefix().find("\"metadata\"").unwrap_or(1);
        // Of each object a brace in place of its type, and a comma but before the first.
        let objects: usize = items.iter().map(|item| item.bytes().len().saturating_sub(typed) + 2).sum();
        let left = head.len() + objects.saturating_sub(1) + TAIL.len();
        Self { ready: head.into_bytes(), items: items.into_iter(), large: None, typed, left, first: true }
    }

    /// The next piece; empty after the last.
    fn piece(&mut self) -> Bytes {
        if let Some(large) = self.large.take() {
            return large;
        }
        let mut piece = std::mem::take(&mut self.ready);
        // The last object of a piece may go beyond it.
        piece.reserve((PIECE + LARGE).min(self.left).saturating_sub(piece.len()));
        while piece.len() < PIECE {
            let Some(item) = self.items.next() else {
                piece.extend_from_slice(TAIL);
                break;
            };
            piece.extend_from_slice(if self.first { b"{" } else { b",{" });
            self.first = false;
            let bytes = item.bytes();
            let rest = self.typed.min(bytes.len());
            if bytes.len() >= LARGE {
                self.large = Some(bytes.slice(rest..));
                break;
            }
            piece.extend_from_slice(&bytes[rest..]);
        }
        piece.into()
    }
}

impl Body for Listing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.piece();
        self.left = self.left.saturating_sub(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use balsa_model::Revision;
    use balsa_model::kind::kind_of;
    use http_body_util::BodyExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn config_map(i: usize, size: usize) -> Arc<Object> {
        let value = json!({"metadata": {"name": format!("c{i}")}, "data": {"a": "x".repeat(size)}});
        let kind = kind_of::<ConfigMap>();
        Arc::new(Object::seal(kind, &Object::canonical(kind, &value), Revision(7)).unwrap())
    }

    /// The pieces of a list of objects of these sizes.
    async fn pieces(sizes: &[usize]) -> Vec<Bytes> {
        let items: Vec<_> = sizes.iter().enumerate().map(|(i, size)| config_map(i, *size)).collect();
        let mut body = Listing::new(kind_of::<ConfigMap>(), &json!({"resourceVersion": "9"}), items);
        let length = body.size_hint().exact().unwrap();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(body.is_end_stream());
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>() as u64, length);
        let list: Value = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(
            (&list["kind"], &list["metadata"]["resourceVersion"]),
            (&json!("ConfigMapList"), &json!("9"))
        );
        let found: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["data"]["a"]).collect();
        assert_eq!(found.len(), sizes.len());
        assert!(found.iter().zip(sizes).all(|(text, size)| text.as_str().unwrap().len() == *size));
        assert!(list["items"].as_array().unwrap().iter().all(|item| item.get("kind").is_none()));
        pieces
    }

    #[tokio::test]
    async fn a_list_is_made_in_pieces() {
        assert_eq!(pieces(&[]).await.len(), 1);
        assert_eq!(pieces(&[10, 20]).await.len(), 1);
        let long = pieces(&[2000; 200]).await;
        assert!(long.len() > 5 && long.iter().all(|piece| piece.len() < PIECE + LARGE), "{}", long.len());
    }

    #[tokio::test]
    async fn large_objects_are_not_copied() {
        let large = config_map(0, 2 * PIECE);
        let mut body = Listing::new(kind_of::<ConfigMap>(), &json!({}), vec![large.clone()]);
        assert!(body.piece().ends_with(b"\"items\":[{"));
        let shared = body.piece();
        assert!(large.bytes().as_ptr_range().contains(&shared.as_ptr()));
        for sizes in [&[LARGE][..], &[LARGE, LARGE], &[1, LARGE, 1], &[2 * PIECE, 1, 1]] {
            pieces(sizes).await;
        }
    }
}
