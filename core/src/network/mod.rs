//! Networks of the engine: `adapter` is how container verbs see them, `service` what the API asks, `plan` what becomes of a
//! request for a new one, `plugged` those that plugins have a part in, `document` what outlives the daemon, `names` what
//! containers are called there. The only place that knows both containers and `dockerd-network`.

pub(crate) mod adapter;
mod document;
pub(crate) mod names;
pub mod plan;
pub(crate) mod plugged;
pub mod service;

pub use plan::{CreateNetwork, CreatePool};
pub use service::{NetworkContainer, NetworkService, NetworkView, PoolView};
