//! Hands a fuzzer's bytes to [`throng::fuzzing::send_queue`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::send_queue(data));
