//! See `dockerd_network::dns::fuzz::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_network::dns::fuzz::dns(data));
