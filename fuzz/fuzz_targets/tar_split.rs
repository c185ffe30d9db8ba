//! See `dockerd_image::fuzz::tar_split`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::tar_split(data));
