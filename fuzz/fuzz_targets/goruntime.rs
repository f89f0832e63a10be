#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memtrap_fuzz::goruntime(data));
