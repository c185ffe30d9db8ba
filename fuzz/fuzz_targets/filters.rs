//! See `dockerd_types::fuzz::filters`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_types::fuzz::filters(data));
