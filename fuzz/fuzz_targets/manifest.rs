//! See `dockerd_registry::fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_registry::fuzz::manifest(data));
