//! The engine: one service per kind of resource over the image, runtime and network drivers. Knows nothing of HTTP;
//! the only crate that knows more than one driver.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod boot;
pub mod config;
pub mod container;
pub(crate) mod core;
mod dump;
pub mod engine;
pub mod error;
pub mod event_bus;
pub mod execs;
pub mod image;
mod janitor;
pub mod moving;
pub mod network;
pub mod open;
pub mod peer;
pub mod ports;
mod reaper;
pub mod reload;
pub mod saga;
mod shutdown;
pub mod streams;
pub mod system;
pub mod volumes;

pub use config::EngineConfig;
pub use engine::Engine;
pub use error::EngineError;
pub use open::{EngineFacts, Services};
