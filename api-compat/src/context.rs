//! What a handler is given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dockerd_core::Services;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::extract::{Object, Query, Target, media_type};
use crate::version::ApiVersion;

/// Longest JSON body; descriptions of containers have kilobytes.
const MAX_JSON: usize = 16 << 20;

/// Most that is read of a body nobody wants, as Go's server.
const MOST_UNWANTED: usize = 256 << 10;
/// How long a client may take to send it.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// One request, matched.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) engine: Arc<Services>,
    /// The version the client speaks.
    pub(crate) version: ApiVersion,
    pub(crate) query: Query,
    /// Names in the path, in order.
    pub(crate) names: Vec<String>,
    pub(crate) request: Request<Incoming>,
    /// Headers every answer has, as lines, for those who write their own head.
    pub(crate) head: Arc<str>,
}

impl Context {
    /// The first name in the path.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The body, whole.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        let body = Limited::new(self.request.body_mut(), MAX_JSON).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// The body as a JSON object; its type must be said where there is one.
    #[allow(dead_code, reason = "for bodies whose type no message names")]
    pub(crate) async fn json(&mut self) -> Result<Object, ApiError> {
        self.json_into(Target::ANY).await
    }

    /// As [`Context::json`], with the names its messages use.
    pub(crate) async fn json_into(&mut self, target: Target) -> Result<Object, ApiError> {
        let kind =
            self.request.headers().get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        let bytes = self.bytes().await?;
        if !bytes.is_empty() || kind.is_some() {
            media_type::check_json(kind.as_deref().unwrap_or_default())?;
        }
        Object::parse_into(&bytes, target)
    }

    /// The body as a stream, if what was `read` of the rest of the request is right. A refusal is told only when the
    /// client has sent its body.
    pub(crate) async fn into_stream_if<T>(
        self,
        read: Result<T, ApiError>,
    ) -> Result<(T, BodyStream, Drained), ApiError> {
        let (body, drained) = self.into_drained_stream();
        match read {
            Ok(read) => Ok((read, body, drained)),
            Err(error) => {
                drop(body);
                drained.wait().await;
                Err(error)
            }
        }
    }

    /// The body piece by piece, for archives, a few pieces ahead at most; and when it has been read to its end. Who stops
    /// reading earlier must wait for that before it answers: clients that are still writing take an answer in between
    /// for a broken connection.
    fn into_drained_stream(self) -> (BodyStream, Drained) {
        let (sender, receiver) = mpsc::channel(4);
        let mut body = self.request.into_body();
        let task = tokio::spawn(async move {
            let mut unwanted = 0;
            while let Some(frame) = body.frame().await {
                let data = frame.map_err(std::io::Error::other).map(|frame| frame.into_data().unwrap_or_default());
                let (failed, length) = (data.is_err(), data.as_ref().map_or(0, Bytes::len));
                if sender.send(data).await.is_err() {
                    unwanted += length;
                }
                if failed || unwanted > MOST_UNWANTED {
                    break;
                }
            }
        });
        (receiver, Drained(task))
    }
}

/// The pieces of a body.
pub(crate) type BodyStream = mpsc::Receiver<std::io::Result<Bytes>>;

/// A body being read to its end.
#[derive(Debug)]
pub(crate) struct Drained(tokio::task::JoinHandle<()>);

impl Drained {
    /// Waits for it, not for ever.
    pub(crate) async fn wait(self) {
        let _ = tokio::time::timeout(DRAIN_LIMIT, self.0).await;
    }
}
