//! The process that outlives the daemon and is the parent of every container (ADR 0001): its own side (`server`,
//! `table`, `saved`, `command`, `entry`), the words between (`protocol`), and the daemon's side (`client`).

pub(crate) mod client;
mod command;
pub(crate) mod entry;
pub(crate) mod protocol;
mod saved;
mod server;
mod stored;
pub(crate) mod table;
