use std::cell::Cell;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use memtrap::goruntime::corefile::CoreFile;
use memtrap::goruntime::goroutine_files;
use memtrap::goruntime::goroutines::Goroutines;
use memtrap::goruntime::heap;
use memtrap::goruntime::image::Image;
use memtrap::goruntime::memory::{Memory, Reader};
use memtrap::goruntime::memstats::MemStats;
use memtrap::goruntime::objects;
use memtrap::goruntime::variables::Variables;
use memtrap::goruntime::{ARENA, Runtime};
use memtrap::pprof::{Limits, Profile};

/// Small, so that they are met.
const READS: u64 = 24 << 20;
const WALK: u64 = 2 << 20;
const PROGRAM: &str = "tiny";

/// A real core of `tests/go/tiny`, as few pages as tell all of it.
static SEED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut core = Vec::new();
    GzDecoder::new(&include_bytes!("../seeds/tiny.core.gz")[..]).read_to_end(&mut core).expect("the seed is a gzip file");
    core
});

/// Places in the seed where its segments that can be written to are stored: the runtime's own structures, and the heap.
static DATA: LazyLock<Vec<(usize, usize)>> = LazyLock::new(|| {
    let word = |at: usize| u64::from_le_bytes(SEED[at..at + 8].try_into().unwrap()) as usize;
    let programs = usize::from(u16::from_le_bytes([SEED[56], SEED[57]]));
    let headers = (0..programs).map(|n| 64 + 56 * n);
    let data = headers.filter(|at| SEED[*at] == 1 && SEED[at + 4] & 2 == 2);
    data.map(|at| (word(at + 8), word(at + 32))).collect()
});

/// The rest behind a first byte: an ELF core as it is (an even one), or changes of a real one, 8 bytes each (an odd one). Whatever it says,
/// there are reasons or answers, in bounded reads; what is unchanged is read in full.
pub fn goruntime(data: &[u8]) {
    match data.split_first() {
        Some((kind, core)) if kind % 2 == 0 => check(core.to_vec(), false),
        Some((_, changes)) => check(changed(changes), changes.is_empty()),
        None => {}
    }
}

/// Changes of 13 bytes: where in the data, or if the highest bit is set in the whole file, how, and with what.
fn changed(changes: &[u8]) -> Vec<u8> {
    let mut core = SEED.clone();
    let in_data: usize = DATA.iter().map(|(_, len)| len).sum();
    for change in changes.chunks_exact(13) {
        let place = u32::from_le_bytes([change[0], change[1], change[2], change[3]]);
        let value = u64::from_le_bytes(change[5..].try_into().unwrap());
        let at = match place >> 31 {
            0 => {
                let mut left = place as usize * 8 % in_data;
                let of = DATA.iter().find(|(_, len)| {
                    let is_in = left < *len;
                    left -= if is_in { 0 } else { *len };
                    is_in
                });
                of.unwrap().0 + left
            }
            _ => (place & 0x7fff_ffff) as usize % (core.len() - 8),
        };
        let old = u64::from_le_bytes(core[at..at + 8].try_into().unwrap());
        let new = match change[4] % 4 {
            0 => value,
            1 => old ^ value,
            2 => old.wrapping_add(value),
            // a word from elsewhere in it: an address that leads somewhere
            _ => u64::from_le_bytes(core[value as usize % (core.len() - 8)..][..8].try_into().unwrap()),
        };
        core[at..at + 8].copy_from_slice(&new.to_le_bytes());
    }
    core
}

/// Counts what is read, whoever asks.
struct Counting<'m>(&'m CoreFile, Cell<u64>);

impl Memory for Counting<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        self.1.set(self.1.get() + buf.len() as u64);
        self.0.read(address, buf)
    }
}

fn check(bytes: Vec<u8>, is_whole: bool) {
    let len = bytes.len() as u64;
    let core = match CoreFile::parse(Box::new(bytes)) {
        Ok(core) => core,
        Err(why) => return assert!(!is_whole && is_a_sentence(&why.to_string()), "{why}"),
    };
    let stored: u64 = core.parts(ARENA).iter().map(|part| part.bytes).sum();
    assert!(stored <= len, "{stored} bytes in {len}");
    match core.image() {
        Ok(image) => told(&core, &image, is_whole),
        Err(why) => assert!(!is_whole && is_a_sentence(&why.to_string()), "{why}"),
    }
}

fn told(core: &CoreFile, image: &Image, is_whole: bool) {
    let memory = Counting(core, Cell::new(0));
    let reader = Reader::within(&memory, READS);
    let runtime = match Runtime::find(&reader, image) {
        Ok(runtime) => runtime,
        Err(why) => return assert!(!is_whole && is_a_sentence(&why.to_string()), "{why}"),
    };
    let mut refused = Vec::new();
    let mut refuse = |why: memtrap::goruntime::Refused| refused.push(why.to_string());
    match MemStats::read(&runtime) {
        Ok(stats) => assert!(stats.sys > 0 && stats.stack_inuse < stats.sys && stats.to_string().ends_with('\n')),
        Err(why) => refuse(why),
    }
    match heap::profile(&runtime, 1) {
        Ok(profile) => drop(Profile::parse(&profile.gzipped, &Limits::default()).expect("what is written can be read")),
        Err(why) => refuse(why),
    }
    match Goroutines::read(&runtime, None).and_then(|read| Ok((goroutine_files::text(&runtime, &read)?, read))) {
        Ok((text, read)) => {
            assert!(read.groups.iter().map(|group| group.count).sum::<u64>() + read.others <= read.total.max(1));
            assert!(text.starts_with("goroutine profile: total ") && !text.contains('\r'), "{text}");
        }
        Err(why) => refuse(why),
    }
    let variables = runtime.functions().and_then(|functions| Variables::of_code(&runtime, &functions));
    match variables.and_then(|variables| objects::holders(&runtime, variables, image.main_module.as_deref(), WALK)) {
        Ok(holders) => {
            let held: u64 = holders.holders.iter().map(|holder| holder.retained_bytes).sum::<u64>() + holders.others.retained_bytes;
            assert!(held <= holders.reached_bytes.max(held / 2 + 1) * 2, "{held} of {}", holders.reached_bytes);
            let of_workers = holders.holders.iter().any(|holder| holder.count == Some(5) && holder.name.contains("main.worker"));
            let of_sessions = holders.holders.iter().any(|holder| holder.path_text().ends_with("main.session ×40 → []uint8 ×40"));
            assert!(!is_whole || of_workers && of_sessions, "{}", holders.text(9));
        }
        Err(why) => refuse(why),
    }
    assert!(!is_whole || refused.is_empty() && image.main_module.as_deref() == Some(PROGRAM), "{refused:?}");
    assert!(refused.iter().all(|why| is_a_sentence(why)), "{refused:?}");
    assert!(reader.bytes() <= READS && memory.1.get() <= READS + (1 << 20), "{} bytes were read", memory.1.get());
}

fn is_a_sentence(why: &str) -> bool {
    why.len() > 8 && why.len() < 4096 && !why.contains(|c: char| c.is_control())
}
