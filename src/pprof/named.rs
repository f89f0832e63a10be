//! Profiles made of what the forms with `debug=` say: `heap?debug=1`, and goroutines as text.
//!
//! Frames are told by their names, which stand beside the addresses; Go leaves the runtime's own out there as it does in the binary form.
//! Not here: the binary form (`decode`), the states of goroutines (`goroutine`).

use std::collections::HashMap;

use super::Limits;
use super::error::DecodeError;
use super::goroutine::{Dump, named_frame, split_place};
use super::profile::{Function, Label, LabelValue, Line, Location, Profile, Str, ValueType};
use crate::units::ByteSize;

const HEAP: &[u8] = b"heap profile: ";
const MEMSTATS: &[u8] = b"# runtime.MemStats";

/// Whether this is the text of `heap?debug=1`.
pub fn is_heap_text(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(HEAP)
}

/// Reads `heap?debug=1`. Go writes what it sampled: the values are scaled up to what they stand for, as `go tool pprof` does.
pub fn heap(text: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
    let types = [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")];
    let mut build = Build::new(&types, "inuse_space", limits)?;
    let bytes = build.text(b"bytes")?;
    let mut rate = None;
    let mut sample: Option<HeapSample> = None;
    let mut at = 0u64;
    for line in text.split(|b| *b == b'\n') {
        let (place, line) = (at, line.trim_ascii());
        at += line.len() as u64 + 1;
        if line.starts_with(MEMSTATS) {
            break;
        } else if let Some(frame) = line.strip_prefix(b"#") {
            if let Some(sample) = &mut sample {
                let (function, place) = named_frame(frame);
                sample.frames.push(build.frame(function, place)?);
            }
        } else if let Some(header) = line.strip_prefix(HEAP) {
            rate = Some(sampling_rate(header).ok_or_else(|| DecodeError::malformed(place, "a head that names no sampling rate"))?);
        } else if !line.is_empty() {
            let rate = rate.ok_or_else(|| DecodeError::malformed(place, "a sample before the head"))?;
            let next = HeapSample::parse(line).ok_or_else(|| DecodeError::malformed(place, "a line that is neither sample nor frame"))?;
            if let Some(done) = sample.replace(next) {
                done.push(&mut build, bytes, rate)?;
            }
        }
    }
    if let Some((last, rate)) = sample.zip(rate) {
        last.push(&mut build, bytes, rate)?;
    }
    Ok(build.profile)
}

/// `255: 7563528 [43141: 19638752] @ heap/8192`: Go writes twice its rate.
fn sampling_rate(header: &[u8]) -> Option<i64> {
    let (_, after) = std::str::from_utf8(header).ok()?.split_once("@ heap/")?;
    Some(after.trim().parse::<i64>().ok()? / 2)
}

struct HeapSample<'t> {
    /// Allocated objects and bytes, those in use.
    values: [i64; 4],
    /// Of a stack that nobody named.
    address: &'t [u8],
    frames: Vec<u32>,
}

impl<'t> HeapSample<'t> {
    /// `1: 1048576 [2: 2097152] @ 0x41fb05 0x4832cf`
    fn parse(line: &'t [u8]) -> Option<HeapSample<'t>> {
        let split = line.iter().position(|b| *b == b'@')?;
        let numbers = std::str::from_utf8(line.get(..split)?).ok()?;
        let mut numbers = numbers.split([':', '[', ']', ' ']).filter(|n| !n.is_empty()).map(|n| n.parse::<i64>().ok());
        let mut next = || numbers.next().flatten();
        let (inuse_objects, inuse_space, alloc_objects, alloc_space) = (next()?, next()?, next()?, next()?);
        let address = line.get(split + 1..)?.trim_ascii().split(|b| *b == b' ').next().unwrap_or_default();
        Some(HeapSample { values: [alloc_objects, alloc_space, inuse_objects, inuse_space], address, frames: Vec::new() })
    }

    fn push(mut self, build: &mut Build<'_>, bytes: Str, rate: i64) -> Result<(), DecodeError> {
        if self.frames.is_empty() {
            self.frames.push(build.frame(self.address, b"")?);
        }
        let [alloc_objects, alloc_space, inuse_objects, inuse_space] = self.values;
        let size = alloc_space.checked_div(alloc_objects).or(inuse_space.checked_div(inuse_objects)).unwrap_or(0);
        let (allocated, used) = (scaled(alloc_objects, alloc_space, rate), scaled(inuse_objects, inuse_space, rate));
        let label = Label { key: bytes, value: LabelValue::Number { value: size, unit: Str::default() } };
        build.sample(&[allocated.0, allocated.1, used.0, used.1], &self.frames, &[label])
    }
}

/// Of objects of one size, each is sampled with a chance that depends on it and on the rate.
fn scaled(objects: i64, bytes: i64, rate: i64) -> (i64, i64) {
    if objects == 0 || bytes == 0 || rate <= 1 {
        return (objects, bytes);
    }
    let average = bytes as f64 / objects as f64;
    let scale = 1.0 / (1.0 - (-average / rate as f64).exp());
    ((objects as f64 * scale) as i64, (bytes as f64 * scale) as i64)
}

/// The goroutines of a dump as the profile of their stacks.
pub fn goroutines(dump: &Dump, limits: &Limits) -> Result<Profile, DecodeError> {
    let mut build = Build::new(&[("goroutine", "count")], "goroutine", limits)?;
    for group in &dump.groups {
        let mut frames = Vec::new();
        for frame in dump.stack(group) {
            frames.push(build.named(frame.function.as_bytes(), frame.file.as_bytes(), frame.line)?);
        }
        build.sample(&[i64::try_from(group.count).unwrap_or(i64::MAX)], &frames, &[])?;
    }
    Ok(build.profile)
}

/// A profile that grows, within bounds.
struct Build<'l> {
    profile: Profile,
    limits: &'l Limits,
    texts: HashMap<Vec<u8>, Str>,
    functions: HashMap<(Str, Str), u32>,
    locations: HashMap<(u32, i64), u32>,
}

impl<'l> Build<'l> {
    fn new(types: &[(&str, &str)], chosen: &str, limits: &'l Limits) -> Result<Build<'l>, DecodeError> {
        let mut build =
            Build { profile: Profile::default(), limits, texts: HashMap::new(), functions: HashMap::new(), locations: HashMap::new() };
        build.text(b"")?;
        for (kind, unit) in types {
            let sample_type = ValueType { kind: build.text(kind.as_bytes())?, unit: build.text(unit.as_bytes())? };
            build.profile.sample_types.push(sample_type);
        }
        build.profile.default_sample_type = build.text(chosen.as_bytes())?;
        Ok(build)
    }

    fn text(&mut self, text: &[u8]) -> Result<Str, DecodeError> {
        if let Some(known) = self.texts.get(text) {
            return Ok(*known);
        }
        bounded(self.texts.len(), self.limits.strings, "strings")?;
        let limit = ByteSize(u64::from(u32::MAX));
        let id = self.profile.strings.push(text).ok_or(DecodeError::TooLarge { limit })?;
        self.texts.insert(text.to_owned(), id);
        Ok(id)
    }

    /// The location of a frame, at `file:line`.
    fn frame(&mut self, function: &[u8], place: &[u8]) -> Result<u32, DecodeError> {
        let (file, line) = split_place(place);
        self.named(function, file, line)
    }

    fn named(&mut self, function: &[u8], file: &[u8], line: u64) -> Result<u32, DecodeError> {
        let (name, file) = (self.text(function)?, self.text(file)?);
        let function = match self.functions.get(&(name, file)) {
            Some(known) => *known,
            None => {
                bounded(self.functions.len(), self.limits.functions, "functions")?;
                self.profile.functions.push(Function { name, system_name: name, file, start_line: 0 });
                let id = index(self.functions.len());
                self.functions.insert((name, file), id);
                id
            }
        };
        let line = i64::try_from(line).unwrap_or(0);
        if let Some(known) = self.locations.get(&(function, line)) {
            return Ok(*known);
        }
        bounded(self.locations.len(), self.limits.locations.min(self.limits.lines), "locations")?;
        let id = index(self.locations.len());
        self.profile.lines.push(Line { function, line, column: 0 });
        // a location of its own for each: addresses tell them apart
        self.profile.locations.push(Location {
            mapping: None,
            address: u64::from(id) + 1,
            is_folded: false,
            first_line: id,
            line_count: 1,
        });
        self.locations.insert((function, line), id);
        Ok(id)
    }

    fn sample(&mut self, values: &[i64], frames: &[u32], labels: &[Label]) -> Result<(), DecodeError> {
        let samples = &mut self.profile.samples;
        bounded(samples.len(), self.limits.samples, "samples")?;
        bounded(samples.locations.len() + frames.len(), self.limits.frames.min(u32::MAX as usize), "frames")?;
        samples.push(values, frames, labels);
        Ok(())
    }
}

fn bounded(len: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    if len >= limit { Err(DecodeError::TooMany { what, limit }) } else { Ok(()) }
}

/// Counts are bounded far below.
fn index(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{goroutine, top};
    use super::*;

    const TEXT: &str = "heap profile: 3: 3145728 [5: 5242880] @ heap/1048576\n\
        2: 2097152 [2: 2097152] @ 0x41fb05 0x4832cf 0x44ea67\n#\t0x4f171e\tmain.keep+0x7e\t/src/main.go:28\n\
        #\t0x44ea66\tmain.main+0x426\t\t/src/main.go:9\n\n\
        1: 512 [3: 1536] @ 0x41fb06 0x44ea67\n#    0x4f171f    main.small+0x7e    /src/my main.go:30\n\n\
        \n# runtime.MemStats\n# HeapAlloc = 2\n";

    fn table(text: &str, sample_type: &str) -> Vec<(String, i64, i64)> {
        let profile = heap(text.as_bytes(), &Limits::default()).unwrap();
        let options = top::Options { sample_index: Some(sample_type.into()), ..Default::default() };
        let rows = top::rows(&profile, &options).unwrap().rows;
        rows.into_iter().map(|r| (r.name, r.flat, r.cum)).collect()
    }

    #[test]
    fn a_heap_as_text_is_scaled_to_what_its_samples_stand_for() {
        // a sample of 1 MiB at a rate of 512 KiB stands for 1 / (1 - e^-2) objects, one of 512 B for 1024.5
        let keep = (2.0 * 1_048_576.0 / (1.0 - (-2.0f64).exp())) as i64;
        assert_eq!(
            table(TEXT, "inuse_space"),
            [("main.keep".to_owned(), keep, keep), ("main.small".into(), 524_544, 524_544), ("main.main".into(), 0, keep)]
        );
        assert_eq!(table(TEXT, "inuse_objects")[0], ("main.small".into(), 1024, 1024));
        assert_eq!(table(TEXT, "alloc_objects")[0], ("main.small".into(), 3073, 3073));
    }

    #[test]
    fn a_heap_as_text_that_is_none_says_at_which_byte() {
        let refuse = |text: &str| heap(text.as_bytes(), &Limits::default()).unwrap_err().to_string();
        assert!(refuse("heap profile: 1: 2 [3: 4] @ heapz\n").contains("names no sampling rate"));
        assert!(refuse("1: 2 [3: 4] @ 0x1\n").contains("a sample before the head"));
        assert!(refuse("heap profile: 1: 2 [3: 4] @ heap/2\nhello\n").contains("at byte 35: a line that is neither"));
        let few = Limits { samples: 1, ..Limits::default() };
        assert_eq!(heap(TEXT.as_bytes(), &few).unwrap_err().to_string(), "more than 1 samples");
    }

    #[test]
    fn goroutines_as_text_are_counted_by_function() {
        let text = "goroutine profile: total 7\n5 @ 0x1 0x2\n#\t0x1\tmain.wait+0x14\t/src/main.go:134\n#\t0x2\tmain.run+0x1\t/src/main.go:9\n\n\
                    2 @ 0x3\n#\t0x3\tmain.read+0x14\t/src/main.go:13\n\n";
        let dump = goroutine::parse(text.as_bytes(), &goroutine::Limits::default()).unwrap();
        let profile = goroutines(&dump, &Limits::default()).unwrap();
        let rows = top::rows(&profile, &top::Options::default()).unwrap().rows;
        let told: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.flat, r.cum)).collect();
        assert_eq!(told, [("main.wait", 5, 5), ("main.read", 2, 2), ("main.run", 0, 5)]);
    }
}
