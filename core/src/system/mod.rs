//! What the daemon knows of itself and its host.

pub(crate) mod host;
