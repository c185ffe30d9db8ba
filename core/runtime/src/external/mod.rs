//! Containers through an OCI runtime program (runc, crun, ...) instead of the native driver: the same verbs, each one
//! or two executions of the program. Owns the bundles under `<exec_root>/external/<runtime>`. The supervisor runs the
//! program and thereby becomes the parent of what the program leaves behind.
//!
//! ```text
//! start:  bundle --> create (the process waits before its execve) --> supervisor adopts it --> start
//! delete: delete --force --> unmount --> bundle removed
//! ```
//!
//! A program is only a front: signals that must not be lost (SIGKILL) go straight to the process, and so do those for
//! execs, which the OCI command line cannot address.

mod bundle;
mod command;
mod driver;
mod terminal;

pub(crate) use driver::ExternalDriver;
