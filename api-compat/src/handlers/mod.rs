//! Handlers: extract, convert, call one service, convert back.

pub(crate) mod archive;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod registries;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod volumes;
