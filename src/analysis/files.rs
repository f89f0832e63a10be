//! The files of a directory of evidence, read within bounds.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::AnalysisError;
use crate::anatomy::{self, Evidence, memstats, smaps};
use crate::bundle::timeline::{self, TimelineRow};
use crate::disk::Dir;
use crate::error::chain;
use crate::lang::{Lang, say};
use crate::pprof::{self, DecodeError, Profile, goroutine};
use crate::units::ByteSize;

/// Of one file; real profiles and dumps stay far below.
const MAX_FILE: u64 = 1 << 30;
const MAX_JSON: u64 = 8 << 20;
/// Of one profile: a service with a million allocation sites, as `top` reads it; the defaults would let one hostile profile take all of the
/// child's memory.
const PROFILE: pprof::Limits = pprof::Limits {
    inflated_bytes: 128 << 20,
    strings: 1_000_000,
    mappings: 20_000,
    functions: 500_000,
    locations: 500_000,
    lines: 1_000_000,
    samples: 1_000_000,
    values: 4_000_000,
    frames: 24_000_000,
    labels: 1_000_000,
    comment_bytes: 1 << 20,
};
/// Of all profiles of a directory together, once they are decoded.
const PROFILES_MEMORY: usize = 256 << 20;
/// What they may inflate to, good or not.
const PROFILES_INFLATED: u64 = 256 << 20;

/// A directory of evidence; remembers what of it could not be used.
pub(super) struct Files {
    /// `None`: it is not there, and neither is anything in it.
    dir: Option<Dir>,
    pub lang: Lang,
    pub problems: Vec<String>,
    /// Bytes of the profiles that were decoded, here and in the baseline.
    pub profiles: usize,
    /// What the profiles may still inflate to, here and in the baseline.
    pub inflatable: u64,
}

impl Files {
    pub fn at(dir: Option<Dir>, lang: Lang) -> Files {
        Files { dir, lang, problems: Vec::new(), profiles: 0, inflatable: PROFILES_INFLATED }
    }

    pub fn open(dir: &Path, lang: Lang) -> Result<Files, AnalysisError> {
        match Dir::open(dir) {
            Ok(dir) => Ok(Files::at(Some(dir), lang)),
            Err(source) => Err(AnalysisError::Read { path: dir.to_owned(), source }),
        }
    }

    pub fn below(&self, name: &str) -> Files {
        let mut files = Files::at(None, self.lang);
        match self.dir.as_ref().map(|dir| dir.dir(name)) {
            Some(Ok(dir)) => files.dir = Some(dir),
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => files.say_useless(name, &e.to_string()),
            _ => {}
        }
        files
    }

    pub fn has(&self, name: &str) -> bool {
        self.dir.as_ref().is_some_and(|dir| dir.has_file(name))
    }

    fn say_useless(&mut self, name: &str, why: &str) {
        self.problems.push(say!(self.lang; "{name} cannot be used: {why}"; "{name} 无法使用：{why}"));
    }

    /// Parses a file, if it is there. One that is there and no good is a problem.
    fn parse<T>(&mut self, name: &str, max: u64, parse: impl FnOnce(io::Take<File>) -> Result<T, String>) -> Option<T> {
        let result = match self.dir.as_ref()?.file(name).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => Err(e.to_string()),
            Ok((bytes, _)) if bytes > max => Err(format!("it is larger than {}", ByteSize(max))),
            Ok((_, file)) => parse(file.take(max)),
        };
        result.map_err(|why| self.say_useless(name, &why)).ok()
    }

    pub fn profile(&mut self, name: &str) -> Option<Profile> {
        let (used, mut left) = (self.profiles, self.inflatable);
        let profile = self.parse(name, PROFILE.inflated_bytes, |mut file| {
            if used > PROFILES_MEMORY {
                return Err(format!("the other profiles take more than {} of memory", ByteSize(PROFILES_MEMORY as u64)));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            let parsed = Profile::parse_within(&bytes, &PROFILE, &mut left);
            parsed.map_err(|e| match e {
                DecodeError::TooLarge { limit } if limit.0 < PROFILE.inflated_bytes => {
                    format!("all profiles together inflate to more than {}", ByteSize(PROFILES_INFLATED))
                }
                e => chain(&e),
            })
        });
        self.inflatable = left;
        let profile = profile?;
        self.profiles += profile.memory();
        Some(profile)
    }

    /// The samples of a `heap?debug=1`; memtrap's own memstats.txt has none.
    pub fn heap_text(&mut self, name: &str) -> Option<Profile> {
        let parsed = self.parse(name, MAX_FILE, |file| {
            let mut bytes = Vec::new();
            file.take(PROFILE.inflated_bytes).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            Ok(pprof::heap_text(&bytes, &PROFILE).ok().filter(|_| pprof::is_heap_text(&bytes)))
        });
        let profile = parsed.flatten()?;
        self.profiles += profile.memory();
        Some(profile).filter(|p| p.samples().len() > 0)
    }

    pub fn goroutines(&mut self, name: &str) -> Option<goroutine::Dump> {
        let limits = goroutine::Limits::default();
        self.parse(name, MAX_FILE, |file| goroutine::parse(BufReader::new(file), &limits).map_err(|e| chain(&e)))
    }

    pub fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.parse(name, MAX_JSON, |file| serde_json::from_reader(BufReader::new(file)).map_err(|e| e.to_string()))
    }

    /// Empty where there is none.
    pub fn text(&mut self, name: &str) -> String {
        let text = self.parse(name, MAX_JSON, |mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        text.unwrap_or_default()
    }

    pub fn memstats(&mut self, name: &str) -> Option<memstats::GoMemory> {
        let parsed = self.parse(name, MAX_FILE, |file| memstats::parse(BufReader::new(file)).map_err(|e| e.to_string()))?;
        if parsed.is_none() {
            self.problems.push(
                say!(self.lang; "{name} cannot be used: it has no `# runtime.MemStats`"; "{name} 无法使用：其中没有 `# runtime.MemStats`"),
            );
        }
        parsed
    }

    pub fn kernel(&mut self, prefix: &str) -> Evidence {
        let error = |e: io::Error| e.to_string();
        let name = |file: &str| format!("{prefix}{file}");
        Evidence {
            status: self.parse(&name("status"), MAX_JSON, |f| anatomy::Split::of_status(BufReader::new(f)).map_err(error)).flatten(),
            rollup: self.parse(&name("smaps_rollup"), MAX_JSON, |f| smaps::parse_rollup(BufReader::new(f)).map_err(error)).flatten(),
            smaps: self.parse(&name("smaps"), MAX_FILE, |f| smaps::parse(BufReader::new(f)).map_err(error)).flatten(),
            stack_limit: self.parse(&name("limits"), MAX_JSON, |f| anatomy::stack_limit(BufReader::new(f)).map_err(error)).flatten(),
            ..Evidence::default()
        }
    }

    pub fn timeline(&mut self) -> Vec<TimelineRow> {
        let parsed = self.parse(timeline::FILE, MAX_JSON, |mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| e.to_string())?;
            Ok(timeline::parse(&text))
        });
        parsed.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_profiles_inflate_to_is_bounded() {
        use std::io::Write;
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..60).for_each(|_| bomb.write_all(&vec![0xff; 1 << 20]).unwrap());
        let bomb = bomb.finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let names = ["heap_gc.pb.gz", "heap.pb.gz", "goroutine.pb.gz", "goroutineleak.pb.gz", "heap_gc_after.pb.gz"];
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), &bomb).unwrap());
        let mut files = Files::open(dir.path(), Lang::En).unwrap();
        for name in names {
            assert!(files.profile(name).is_none());
        }
        let said = "heap_gc_after.pb.gz cannot be used: all profiles together inflate to more than 256MiB";
        assert!(files.problems.iter().any(|p| p == said), "{:?}", files.problems);
        assert_eq!(files.problems.iter().filter(|p| p.contains("all profiles together")).count(), 1, "{:?}", files.problems);
    }
}
