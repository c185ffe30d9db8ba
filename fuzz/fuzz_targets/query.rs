//! See `api_compat::fuzz::query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| api_compat::fuzz::query(data));
