//! The engine: one service per kind of resource over the image, runtime and network drivers. Knows nothing of HTTP;
//! the only crate that knows more than one driver.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod config;
pub mod container;
pub(crate) mod core;
pub mod error;
pub mod ports;
mod reaper;
pub mod saga;

pub use config::EngineConfig;
pub use error::EngineError;
