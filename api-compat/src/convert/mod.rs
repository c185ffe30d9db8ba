//! Between the wire and the engine, field by field.

pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod df;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod network;
pub(crate) mod stats;
