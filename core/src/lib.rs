//! The engine: one service per kind of resource over the image, runtime and network drivers. Knows nothing of HTTP;
//! the only crate that knows more than one driver.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod boot;
pub mod config;
pub mod container;
pub(crate) mod core;
pub mod engine;
pub mod error;
pub mod ports;
mod reaper;
pub mod saga;
mod shutdown;
mod system;

pub use config::EngineConfig;
pub use engine::Engine;
pub use error::EngineError;
