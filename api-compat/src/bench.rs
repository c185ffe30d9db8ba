//! Entries for micro benches only; not part of what this crate is for.

use bytes::Bytes;
use dockerd_types::stream::StdStream;
use hyper::Method;

use crate::routes::{self, Found};
use crate::{stream, version};

/// Finds the route of a request as the server does; whether there is one.
pub fn route(method: &Method, path: &str) -> bool {
    !matches!(routes::find(method, version::split(path).path), Found::Nothing)
}

/// One frame of a multiplexed stream.
pub fn frame(payload: &[u8]) -> Bytes {
    stream::frame::encode(StdStream::Stdout, payload)
}
