//! The words every other crate speaks: ids, digests, references, error kinds, filters, times, and the resolved
//! description of a container. No I/O, no clock, no kernel; anything here may be used anywhere.
#![forbid(unsafe_code)]

pub mod boolean;
pub mod container;
pub mod digest;
pub mod error;
pub mod filters;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod go_json;
pub mod ids;
pub mod network;
pub mod reference;
pub mod signal;
pub mod stream;
pub mod timestamp;

pub use digest::Digest;
pub use error::{ErrorKind, Kinded};
pub use filters::Filters;
pub use ids::{ContainerId, EndpointId, ExecId, NetworkId};
pub use reference::Reference;
pub use timestamp::Timestamp;
