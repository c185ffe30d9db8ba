//! Raw streams over HTTP: framing, and connections that stop being HTTP.

pub(crate) mod feed;
pub(crate) mod frame;
pub(crate) mod hijack;
pub(crate) mod progress;
