//! Hands a fuzzer's bytes to [`throng::fuzzing::upgrade`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::upgrade(data));
