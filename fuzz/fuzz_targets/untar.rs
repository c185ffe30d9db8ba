//! See `dockerd_image::fuzz::untar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::untar(data));
