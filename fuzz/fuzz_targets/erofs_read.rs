//! See `dockerd_image::fuzz::erofs_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_image::fuzz::erofs_read(data));
