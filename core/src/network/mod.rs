//! Networks of the engine: `adapter` is how container verbs see them, `service` what the API asks, `document` what
//! outlives the daemon. The only place that knows both containers and `dockerd-network`.

pub(crate) mod adapter;
mod document;
pub mod service;

pub use service::{NetworkContainer, NetworkService, NetworkView};
