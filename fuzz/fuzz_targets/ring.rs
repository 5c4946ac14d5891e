//! Hands a fuzzer's bytes to [`throng::driver::double::ring`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::driver::double::ring(data));
