//! See the module docs.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod cgroup;
pub mod seccomp;
