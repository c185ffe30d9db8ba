//! See `dockerd_image::fuzz::toc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::toc(data));
