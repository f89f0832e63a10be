//! `go_memstats_*`: what the Go runtime says of its own memory, as the official client library exposes it.

use crate::anatomy::GoMemory;

pub(super) const PREFIX: &[u8] = b"go_memstats_";

/// Gathers the numbers of one page. Without the heap's four there is nothing to say.
#[derive(Clone, Debug, Default)]
pub(super) struct GoStats {
    memory: GoMemory,
    seen: u8,
}

impl GoStats {
    /// `name` is what follows the prefix.
    pub fn take(&mut self, name: &[u8], value: f64) {
        // NaN and what is negative become 0, what is too large the largest: claims are bounded where they are used
        let n = value as u64;
        let m = &mut self.memory;
        let field = match name {
            b"heap_alloc_bytes" => return self.heap(0, |m| &mut m.heap_alloc, n),
            b"heap_inuse_bytes" => return self.heap(1, |m| &mut m.heap_inuse, n),
            b"heap_idle_bytes" => return self.heap(2, |m| &mut m.heap_idle, n),
            b"heap_released_bytes" => return self.heap(3, |m| &mut m.heap_released, n),
            b"heap_sys_bytes" => &mut m.heap_sys,
            b"heap_objects" => &mut m.heap_objects,
            b"stack_inuse_bytes" => &mut m.stack_inuse,
            b"stack_sys_bytes" => &mut m.stack_sys,
            b"mspan_sys_bytes" => &mut m.mspan_sys,
            b"mcache_sys_bytes" => &mut m.mcache_sys,
            b"buck_hash_sys_bytes" => &mut m.buck_hash_sys,
            b"gc_sys_bytes" => &mut m.gc_sys,
            b"other_sys_bytes" => &mut m.other_sys,
            b"alloc_bytes_total" => &mut m.total_alloc,
            b"mallocs_total" => return m.mallocs = Some(n),
            b"next_gc_bytes" => return m.next_gc = Some(n),
            b"last_gc_time_seconds" => return m.last_gc_unix_ns = Some((value * 1e9) as u64),
            b"gc_cpu_fraction" => return m.gc_cpu_fraction = Some(value).filter(|v| v.is_finite()),
            _ => return,
        };
        *field = n;
    }

    fn heap(&mut self, bit: u8, field: impl FnOnce(&mut GoMemory) -> &mut u64, n: u64) {
        *field(&mut self.memory) = n;
        self.seen |= 1 << bit;
    }

    pub fn finish(self) -> Option<GoMemory> {
        (self.seen == 0b1111).then_some(self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_heaps_numbers_there_is_nothing_to_say() {
        let mut stats = GoStats::default();
        for (name, value) in [("heap_alloc_bytes", 5e6), ("heap_inuse_bytes", 6e6), ("heap_idle_bytes", 7e6), ("stack_inuse_bytes", 1e6)] {
            stats.take(name.as_bytes(), value);
        }
        assert_eq!(stats.clone().finish(), None);
        stats.take(b"heap_released_bytes", 3e6);
        stats.take(b"mallocs_total", f64::NAN);
        let memory = stats.finish().unwrap();
        assert_eq!(
            (memory.heap_alloc, memory.stack_inuse, memory.unreleased(), memory.mallocs),
            (5_000_000, 1_000_000, 4_000_000, Some(0))
        );
    }
}
