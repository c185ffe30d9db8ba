//! See `dockerd_image::fuzz::image_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::image_config(data));
