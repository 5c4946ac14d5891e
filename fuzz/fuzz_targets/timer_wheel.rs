//! Hands a fuzzer's bytes to [`throng::fuzzing::timer_wheel`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::timer_wheel(data));
