//! See `dockerd_store::bolt::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_store::bolt::fuzz(data));
