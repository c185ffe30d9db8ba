//! See `dockerd_registry::fuzz::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_registry::fuzz::address(data));
