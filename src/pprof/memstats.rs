//! Reader of the `# runtime.MemStats` part of `heap?debug=1`: the runtime's own numbers, exact where the profile is sampled.
//!
//! Go 1.16 to 1.27 write the same lines, apart from `MaxRSS`, which depends on the platform. A field that is not there is `None`;
//! a line that is not known is ignored.

use std::io::{self, BufRead, Read};

use super::error::harmless;

/// Sizes in bytes, as in Go's `runtime.MemStats`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemStats {
    pub alloc: Option<u64>,
    pub total_alloc: Option<u64>,
    pub sys: Option<u64>,
    /// Objects allocated and freed since the start.
    pub mallocs: Option<u64>,
    pub frees: Option<u64>,
    pub heap_alloc: Option<u64>,
    pub heap_sys: Option<u64>,
    pub heap_idle: Option<u64>,
    pub heap_inuse: Option<u64>,
    pub heap_released: Option<u64>,
    pub heap_objects: Option<u64>,
    pub stack_inuse: Option<u64>,
    pub stack_sys: Option<u64>,
    pub mspan_inuse: Option<u64>,
    pub mspan_sys: Option<u64>,
    pub mcache_inuse: Option<u64>,
    pub mcache_sys: Option<u64>,
    pub buck_hash_sys: Option<u64>,
    pub gc_sys: Option<u64>,
    pub other_sys: Option<u64>,
    /// Heap size at which the next GC cycle begins.
    pub next_gc: Option<u64>,
    /// When the last GC cycle ended, in nanoseconds since the epoch; 0 is never.
    pub last_gc: Option<u64>,
    /// Nanoseconds of the last pauses: a ring of 256, of which cycle `n` is at `(n + 255) % 256`.
    pub pause_ns: Vec<u64>,
    pub num_gc: Option<u64>,
    pub num_forced_gc: Option<u64>,
    /// Share of the CPU that GC used since the start, 0 to 1.
    pub gc_cpu_fraction: Option<f64>,
    /// The highest RSS so far, as the kernel counts it.
    pub max_rss: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum MemStatsError {
    #[error("no `# runtime.MemStats` in it; fetch /debug/pprof/heap?debug=1")]
    Missing,
    #[error("line {line} is `{text}`, which is no number of MemStats; fetch /debug/pprof/heap?debug=1 again")]
    Bad { line: u64, text: String },
    #[error("the MemStats cannot be read")]
    Io(#[from] io::Error),
}

/// Bytes of one line: the two rings of 256 numbers take up to 10 KiB.
const MAX_LINE: u64 = 64 << 10;

/// Reads the whole text of `heap?debug=1`, or only its MemStats part, and holds one line of it at a time.
/// Lines before the part are skipped, and so are lines beyond 64 KiB and a last one without its end: its number may be cut off.
/// Garbage in a known field is an error that names the line.
pub fn parse(mut reader: impl BufRead) -> Result<MemStats, MemStatsError> {
    let mut stats = MemStats::default();
    let mut is_inside = false;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            skip_line(&mut reader)?;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let Some(comment) = text.trim_end().strip_prefix("# ") else { continue };
        if comment == "runtime.MemStats" {
            is_inside = true;
        } else if let (true, Some((name, value))) = (is_inside, comment.split_once(" = ")) {
            stats.set(name, value).ok_or_else(|| MemStatsError::Bad {
                line: number,
                text: harmless(&comment.chars().take(60).collect::<String>()).into_owned(),
            })?;
        }
    }
    if is_inside { Ok(stats) } else { Err(MemStatsError::Missing) }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = reader.fill_buf()?;
        let newline = piece.iter().position(|b| *b == b'\n');
        let (used, is_end) = (newline.map(|n| n + 1).unwrap_or(piece.len()), newline.is_some() || piece.is_empty());
        reader.consume(used);
        if is_end {
            return Ok(());
        }
    }
}

impl MemStats {
    /// `None` if the value of a known field is no number.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let number = || value.parse::<u64>().ok();
        let field = match name {
            "Alloc" => &mut self.alloc,
            "TotalAlloc" => &mut self.total_alloc,
            "Sys" => &mut self.sys,
            "Mallocs" => &mut self.mallocs,
            "Frees" => &mut self.frees,
            "HeapAlloc" => &mut self.heap_alloc,
            "HeapSys" => &mut self.heap_sys,
            "HeapIdle" => &mut self.heap_idle,
            "HeapInuse" => &mut self.heap_inuse,
            "HeapReleased" => &mut self.heap_released,
            "HeapObjects" => &mut self.heap_objects,
            "BuckHashSys" => &mut self.buck_hash_sys,
            "GCSys" => &mut self.gc_sys,
            "OtherSys" => &mut self.other_sys,
            "NextGC" => &mut self.next_gc,
            "LastGC" => &mut self.last_gc,
            "NumGC" => &mut self.num_gc,
            "NumForcedGC" => &mut self.num_forced_gc,
            "MaxRSS" => &mut self.max_rss,
            "Stack" | "MSpan" | "MCache" => return self.set_pair(name, value),
            "PauseNs" => {
                let list = value.strip_prefix('[')?.strip_suffix(']')?;
                self.pause_ns = list.split(' ').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect::<Option<_>>()?;
                return Some(());
            }
            "GCCPUFraction" => {
                self.gc_cpu_fraction = Some(value.parse().ok().filter(|fraction: &f64| fraction.is_finite())?);
                return Some(());
            }
            _ => return Some(()),
        };
        *field = Some(number()?);
        Some(())
    }

    /// `inuse / sys`
    fn set_pair(&mut self, name: &str, value: &str) -> Option<()> {
        let (inuse, sys) = value.split_once(" / ")?;
        let pair = (Some(inuse.parse().ok()?), Some(sys.parse().ok()?));
        match name {
            "Stack" => (self.stack_inuse, self.stack_sys) = pair,
            "MSpan" => (self.mspan_inuse, self.mspan_sys) = pair,
            _ => (self.mcache_inuse, self.mcache_sys) = pair,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MemStats, String> {
        parse(text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn fields_are_read_and_absent_ones_are_none() {
        let stats = read(
            "heap profile: 1: 2 [3: 4] @ heap/8192\n1: 2 [3: 4] @ 0x1\n#\t0x1\tf+0x1\tx.go:1\n\n# runtime.MemStats\n# Alloc = 12\n\
             # Stack = 5 / 6\n# PauseNs = [1 2 0]\n# GCCPUFraction = 1.5e-05\n# DebugGC = false\n# Novel = a b\n# LastGC = 0\n",
        )
        .unwrap();
        let want = MemStats {
            alloc: Some(12),
            stack_inuse: Some(5),
            stack_sys: Some(6),
            pause_ns: vec![1, 2, 0],
            gc_cpu_fraction: Some(1.5e-5),
            last_gc: Some(0),
            ..MemStats::default()
        };
        assert_eq!(stats, want);
    }

    #[test]
    fn the_part_alone_is_enough() {
        assert_eq!(read("# runtime.MemStats\r\n# HeapAlloc = 7\r\n").unwrap().heap_alloc, Some(7));
    }

    #[test]
    fn garbage_is_refused_by_its_line() {
        for bad in [
            "# HeapAlloc = x",
            "# HeapAlloc = -1",
            "# Stack = 1",
            "# PauseNs = [1 x]",
            "# GCCPUFraction = NaN",
            "# Sys = 99999999999999999999",
        ] {
            let error = read(&format!("# runtime.MemStats\n{bad}\n")).unwrap_err();
            assert!(error.starts_with(&format!("line 2 is `{}`", &bad[2..])), "{error}");
        }
        assert!(read("# HeapAlloc = 7\n").unwrap_err().contains("no `# runtime.MemStats`"));
        assert!(read("").unwrap_err().contains("heap?debug=1"));
    }

    #[test]
    fn a_number_that_may_be_cut_off_is_not_believed() {
        assert_eq!(read("# runtime.MemStats\n# Alloc = 12\n# Sys = 34").unwrap().sys, None);
    }

    #[test]
    fn a_line_without_end_is_skipped() {
        let text = format!("{}\n# runtime.MemStats\n# Sys = 3\n", "x".repeat(300_000));
        assert_eq!(read(&text).unwrap().sys, Some(3));
    }
}
