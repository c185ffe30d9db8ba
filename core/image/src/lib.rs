//! See the module docs.
#![forbid(unsafe_code)]
