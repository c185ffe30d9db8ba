//! Building responses: JSON as Docker writes it, empty ones, streams.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Every response's body.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

/// A response.
pub(crate) type Reply = Response<ReplyBody>;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(full) => Pin::new(full).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(never))),
            Self::Stream(chunks) => chunks.poll_recv(cx).map(|chunk| chunk.map(|c| c.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

fn never(error: Infallible) -> io::Error {
    match error {}
}

fn whole(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(ReplyBody::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// A JSON value with Go's trailing newline.
pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    let mut text = value.to_string();
    text.push('\n');
    whole(status, Some("application/json"), text)
}

/// 200 with a JSON value.
pub(crate) fn ok(value: &Value) -> Reply {
    json(StatusCode::OK, value)
}

/// 200 with a list of wire types, written without a tree of values between.
pub(crate) fn ok_list<T: Serialize>(list: &[T]) -> Reply {
    ok_ordered(&list)
}

/// 200 with a wire type, whose members stay in their order.
pub(crate) fn ok_ordered<T: Serialize>(value: &T) -> Reply {
    let mut text = serde_json::to_vec(value).expect("keys are texts, and no serializer of ours fails");
    text.push(b'\n');
    whole(StatusCode::OK, Some("application/json"), text)
}

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    whole(status, None, Bytes::new())
}

/// 200 with plain text.
pub(crate) fn text(body: &'static str) -> Reply {
    whole(StatusCode::OK, Some("text/plain; charset=utf-8"), body)
}

/// 400 as clients of before API 1.24 know errors: plain text.
pub(crate) fn old_error(message: &str) -> Reply {
    let mut response = whole(StatusCode::BAD_REQUEST, Some("text/plain; charset=utf-8"), format!("{message}\n"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Sends the client to another path.
pub(crate) fn moved(path: &str, query: Option<&str>) -> Reply {
    let mut to = percent_encoding::utf8_percent_encode(path, PATH).to_string();
    if let Some(query) = query {
        to.push('?');
        to.push_str(query);
    }
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// What stands in a path only behind a percent sign.
const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'%').add(b'`');

/// 200 with a body that comes piece by piece; headers go out at once.
pub(crate) fn stream(content_type: &'static str, chunks: mpsc::Receiver<io::Result<Bytes>>) -> Reply {
    let mut response = Response::new(ReplyBody::Stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl From<ApiError> for Reply {
    fn from(error: ApiError) -> Self {
        if error.status == StatusCode::NOT_MODIFIED {
            return empty(error.status);
        }
        json(error.status, &serde_json::json!({ "message": error.message }))
    }
}
