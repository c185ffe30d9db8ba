//! Decoders the daemon does not use, to compare with those it does: see `benches/decoders.rs`.
#![forbid(unsafe_code)]
