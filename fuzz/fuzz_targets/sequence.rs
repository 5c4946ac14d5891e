//! Hands a fuzzer's bytes to [`throng::fuzzing::sequence`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::sequence(data));
