//! What the daemon knows of itself and its host.

pub mod df;
pub(crate) mod host;
pub mod info;
