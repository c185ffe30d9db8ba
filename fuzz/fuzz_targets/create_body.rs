//! See `api_compat::fuzz::create_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| api_compat::fuzz::create_body(data));
