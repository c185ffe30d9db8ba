//! Where state lies on disk and how it is written so that a crash at any moment leaves something boot can read.
//! Knows paths, documents and the lock on the data root; does not know what the documents mean.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bolt;
pub mod document;
pub mod layout;
pub mod lock;

pub use bolt::{Bolt, BoltError};
pub use document::{DocumentError, Durability};
pub use layout::Layout;
pub use lock::{LockError, RootLock};
