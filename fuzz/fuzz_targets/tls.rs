//! Hands a fuzzer's bytes to [`throng::fuzzing::tls`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::tls(data));
