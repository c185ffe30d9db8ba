//! Docker's HTTP API over the engine. The only crate that knows HTTP, JSON on the wire and API versions.
#![forbid(unsafe_code)]
// The descriptions of info and host configuration are long JSON literals.
#![recursion_limit = "256"]
#![deny(missing_docs)]

#[doc(hidden)]
pub mod bench;
mod compat;
mod connection;
mod context;
mod convert;
mod error;
mod extract;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handlers;
mod model;
mod reply;
mod router;
mod routes;
mod server;
mod stream;
mod tls;
mod version;

pub use convert::create::description;
pub use server::{Listener, ServerConfig, serve};
