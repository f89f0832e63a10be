//! The named parts of RSS.

use serde::{Deserialize, Serialize};

/// The parts of RSS, in the order they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    HeapLive,
    HeapGarbage,
    HeapFragmentation,
    HeapUnreleased,
    GoroutineStacks,
    RuntimeMetadata,
    NativeAnon,
    FileMapped,
    Shmem,
    Unexplained,
}

impl Bucket {
    pub const ALL: [Bucket; 10] = [
        Bucket::HeapLive,
        Bucket::HeapGarbage,
        Bucket::HeapFragmentation,
        Bucket::HeapUnreleased,
        Bucket::GoroutineStacks,
        Bucket::RuntimeMetadata,
        Bucket::NativeAnon,
        Bucket::FileMapped,
        Bucket::Shmem,
        Bucket::Unexplained,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Bucket::HeapLive => "heap_live",
            Bucket::HeapGarbage => "heap_garbage",
            Bucket::HeapFragmentation => "heap_fragmentation",
            Bucket::HeapUnreleased => "heap_unreleased",
            Bucket::GoroutineStacks => "goroutine_stacks",
            Bucket::RuntimeMetadata => "runtime_metadata",
            Bucket::NativeAnon => "native_anon",
            Bucket::FileMapped => "file_mapped",
            Bucket::Shmem => "shmem",
            Bucket::Unexplained => "unexplained",
        }
    }
}

/// Signed bytes per bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts(pub(super) [i64; Bucket::ALL.len()]);

impl Parts {
    pub fn get(&self, bucket: Bucket) -> i64 {
        self.0.get(bucket as usize).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, bucket: Bucket, bytes: i64) {
        if let Some(part) = self.0.get_mut(bucket as usize) {
            *part = part.saturating_add(bytes);
        }
    }

    pub fn sum(&self) -> i64 {
        self.0.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    pub(super) fn minus(&self, other: &Parts) -> Parts {
        let mut parts = *self;
        parts.0.iter_mut().zip(other.0).for_each(|(part, base)| *part = part.saturating_sub(base));
        parts
    }
}
