//! What the A/B runner and the micro benches share: the images they work on.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod image;
pub mod input;
