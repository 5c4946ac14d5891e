//! Hands a fuzzer's bytes to [`throng::fuzzing::shard`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| throng::fuzzing::shard(data));
