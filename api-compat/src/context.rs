//! What a handler is given.

use std::sync::Arc;

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

    /// The body piece by piece, for archives; a few pieces ahead at most.
    pub(crate) fn into_stream(self) -> mpsc::Receiver<std::io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(4);
        let mut body = self.request.into_body();
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let data = frame.map_err(std::io::Error::other).map(|frame| frame.into_data().unwrap_or_default());
                let failed = data.is_err();
                if sender.send(data).await.is_err() || failed {
                    break;
                }
            }
        });
        receiver
    }
}
