//! See `dockerd_runtime::fuzz::seccomp_profile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerd_runtime::fuzz::seccomp_profile(data));
