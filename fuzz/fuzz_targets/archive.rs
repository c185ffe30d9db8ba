//! See `dockerd_image::fuzz::archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::archive(data));
