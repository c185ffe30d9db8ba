//! See `dockerd_types::fuzz::port`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_types::fuzz::port(data));
