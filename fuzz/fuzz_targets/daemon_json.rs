//! See `dockerd_types::fuzz::daemon_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_types::fuzz::daemon_json(data));
