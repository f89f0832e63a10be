use memtrap::anatomy::smaps::{self as maps, Kind, Mappings, Usage};
use memtrap::anatomy::{self, Evidence, Found, GoMemory, Split, Threads, memstats as footer};
use memtrap::config as toml;
use memtrap::pprof::goroutine::{self, Dump, Limits};

use super::{Dripping, parts, somewhere};

pub fn goroutine_text(data: &[u8]) {
    let limits = Limits::default();
    let Ok(dump) = goroutine::parse(data, &limits) else { return };
    adds_up(&dump, &limits);
    let dripped = goroutine::parse(Dripping::new(data), &limits).expect("the same in many pieces");
    assert_eq!(format!("{dump:?}"), format!("{dripped:?}"));
    let tight = Limits { groups: 3, bytes: 2_000, frames: 4, ..limits };
    let few = goroutine::parse(data, &tight).expect("limits are no errors");
    adds_up(&few, &tight);
    assert_eq!(few.total, dump.total, "what is beyond the limits is counted");
    let cut = &data[..somewhere(data)];
    if let Ok(part) = goroutine::parse(cut, &limits) {
        adds_up(&part, &limits);
        assert!(part.total <= dump.total, "a part has no more than the whole");
        assert!(part.truncated || cut.is_empty() || cut.ends_with(b"\n"), "that it was cut inside of a line is said");
    }
}

fn adds_up(dump: &Dump, limits: &Limits) {
    assert!(dump.groups.len() <= limits.groups);
    assert!(dump.groups.is_sorted_by(|a, b| a.count >= b.count));
    let grouped = dump.groups.iter().fold(dump.others, |sum, group| sum.saturating_add(group.count));
    assert_eq!(grouped, dump.total);
    let mut text = 0;
    for group in &dump.groups {
        assert!(dump.stack(group).len() <= limits.frames);
        assert!(group.states.len() <= 33 && group.labels.len() <= 17);
        assert!(group.states.values().fold(0u64, |sum, n| sum.saturating_add(*n)) <= group.count);
        text += group.states.keys().chain(group.labels.keys()).map(String::len).sum::<usize>();
    }
    // `other` is free
    assert!(text <= limits.bytes + dump.groups.len() * 10, "{text} bytes of states and labels");
}

/// Up to five texts, separated by NUL: smaps, smaps_rollup, status, and the MemStats before and after the collection.
pub fn smaps(data: &[u8]) {
    let [smaps, rollup, status, before, after] = parts(data);
    let mappings = maps::parse(smaps).unwrap();
    assert_eq!(mappings, maps::parse(Dripping::new(smaps)).unwrap(), "the same in one piece and in many");
    let evidence = Evidence {
        rollup: maps::parse_rollup(rollup).unwrap(),
        status: Split::of_status(status).unwrap(),
        memstats: footer::parse(before).unwrap(),
        memstats_gc: footer::parse(after).unwrap(),
        smaps: mappings,
        ..Evidence::default()
    };
    if let Some(mappings) = &evidence.smaps {
        for expected in [None, Some(evidence.memstats.unwrap_or_default().arena_bytes())] {
            kinds_add_up(mappings, expected);
        }
        let part = maps::parse(&smaps[..somewhere(smaps)]).unwrap().unwrap_or_default();
        assert!(part.total.mappings <= mappings.total.mappings);
    }
    let resident = evidence.status.map(|s| s.anon.saturating_add(s.file)).unwrap_or_default();
    for rss_bytes in [resident, resident / 2, 0, 1 << 57] {
        let rss_bytes = rss_bytes.min(1 << 57);
        let anatomy = anatomy::build(&Evidence { rss_bytes, ..evidence.clone() });
        assert_eq!(i128::from(anatomy.parts.sum()), i128::from(rss_bytes), "the buckets add up to the RSS");
    }
}

const KINDS: [Kind; 12] = [
    Kind::GoHeap,
    Kind::GoRuntime,
    Kind::Brk,
    Kind::MallocArena,
    Kind::ThreadStack,
    Kind::MainStack,
    Kind::Globals,
    Kind::OtherAnon,
    Kind::File,
    Kind::FileCopy,
    Kind::Shmem,
    Kind::Special,
];

fn kinds_add_up(mappings: &Mappings, expected: Option<u64>) {
    let (resident, mut rest) = mappings.arenas(expected);
    rest.settle(Threads::default());
    let guessed = resident.filter(|r| r.found != Found::Named).map(|r| r.usage).unwrap_or_default();
    let fields: [fn(&Usage) -> u64; 7] = [|u| u.mappings, |u| u.size, |u| u.rss, |u| u.anon, |u| u.lazy_free, |u| u.huge, |u| u.swap];
    for (n, field) in fields.into_iter().enumerate() {
        let total = field(&mappings.total);
        let sum = KINDS.iter().map(|kind| u128::from(field(&rest.of(*kind)))).sum::<u128>() + u128::from(field(&guessed));
        assert!(total == u64::MAX || sum == u128::from(total), "field {n}: {sum} of {total}");
    }
}

pub fn memstats(data: &[u8]) {
    let stats = footer::parse(data).unwrap();
    assert_eq!(stats, footer::parse(Dripping::new(data)).unwrap(), "the same in one piece and in many");
    let Some(stats) = stats else { return };
    assert!(stats.gc_cpu_fraction.is_none_or(f64::is_finite));
    assert!(stats.unreleased() <= stats.heap_idle && stats.arena_bytes() >= stats.heap_sys);
    assert!(stats.metadata() >= stats.gc_sys);
    let with_profile = [b"heap profile: 1: 2 [3: 4] @ heap/1048576\n# HeapAlloc = 7\n", data].concat();
    assert_eq!(footer::parse(&with_profile[..]).unwrap(), Some(stats), "what stands before it changes nothing");
    let kept = GoMemory { num_gc: None, ..stats };
    let with_more = [data, b"\n# NumGC = -1\n# Unknown = 1\n"].concat();
    // the fragment of a line at the end becomes a line
    if data.ends_with(b"\n") {
        assert_eq!(footer::parse(&with_more[..]).unwrap(), Some(kept));
    }
}

pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    let message_is_good = |problem: &toml::Problem| {
        assert!(problem.place.is_none_or(|place| (1..=lines).contains(&place.line) && place.column >= 1), "{problem:?}");
        assert!(!problem.message.is_empty() && problem.message.len() < 4096, "{problem:?}");
        assert!(!problem.message.contains(|c: char| c.is_control() && c != '\n'), "a terminal cannot be steered: {problem:?}");
    };
    match toml::parse(text, "memtrap.toml") {
        Err(errors) => {
            errors.iter().for_each(message_is_good);
            let places: Vec<_> = errors.iter().filter_map(|p| p.place).map(|place| (place.line, place.column)).collect();
            assert!(places.is_sorted(), "in the order of the file");
        }
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| message_is_good(&warning.0));
            let mut names: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
            assert!(names.iter().all(|name| toml::parse_name(name).is_ok()));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), config.targets.len(), "each target has a name of its own");
            let longer = format!("{text}\n# a comment\n");
            assert_eq!(toml::parse(&longer, "memtrap.toml").expect("a comment is no mistake").0, config);
        }
    }
}
