//! Every system call of the daemon that needs `unsafe`, and typed wrappers for the others it makes often. Small, typed,
//! synchronous; takes borrowed descriptors, returns owned ones or a named error. Nothing here knows what a container is.
#![deny(missing_docs)]

pub mod bpf;
pub mod caps;
pub mod chores;
pub mod command;
pub mod datagrams;
pub mod fdpass;
pub mod flows;
pub mod fuse;
pub mod inside;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod port;
pub mod process;
pub mod pty;
pub mod ring;
pub mod seccomp;
pub mod socket;
pub mod straggler;
