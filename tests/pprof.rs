//! The readers of profiles and dumps, on what real programs wrote (tests/data/pprof) and on damaged copies of it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use memtrap::pprof::{Limits, Profile, TimeZone, goroutine, top, validate};
use proptest::prelude::*;

fn corpus(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pprof").join(name)).unwrap()
}

const RELEASES: [&str; 2] = ["go1.21", "go1.27"];

#[test]
fn goroutines_are_counted_alike_in_every_form() {
    for release in RELEASES {
        let count = validate::total(&corpus(&format!("{release}/goroutine.pb.gz"))[..], &Limits::default()).unwrap() as u64;
        for form in ["debug1", "debug2"] {
            let text = corpus(&format!("{release}/goroutine_{form}.txt"));
            let dump = goroutine::parse(&text[..], &goroutine::Limits::default()).unwrap();
            assert_eq!((dump.total, dump.others, dump.truncated), (count, 0, false), "{release} {form}");
            let largest = &dump.groups[0];
            assert_eq!((largest.count, dump.stack(largest).next().unwrap().function.as_str()), (120, "main.waitReceive"));
            assert!(dump.groups.len() < 20);
        }
    }
}

#[test]
fn a_dump_tells_states_creators_and_gaps() {
    for release in RELEASES {
        let text = corpus(&format!("{release}/goroutine_debug2.txt"));
        let dump = goroutine::parse(&text[..], &goroutine::Limits::default()).unwrap();
        let of = |function: &str| dump.groups.iter().filter(|g| dump.stack(g).any(|f| f.function == function)).collect::<Vec<_>>();
        let states = |function: &str| of(function).iter().flat_map(|g| g.states.keys().cloned()).collect::<Vec<_>>();
        assert_eq!(states("main.waitReceive"), ["chan receive"]);
        assert_eq!(states("main.waitSelect"), ["select"]);
        assert_eq!(states("main.pileUp.func2"), ["chan receive (nil chan)"]);
        assert_eq!(states("main.pileUp.func3"), ["select (no cases)"]);
        assert_eq!(states("sync.(*Cond).Wait"), ["sync.Cond.Wait"]);
        assert_eq!(states("net.(*TCPListener).Accept"), ["IO wait"]);
        assert_eq!(of("main.pileUp.func4")[0].locked_to_thread, 1);
        assert_eq!(dump.created_by(of("main.waitReceive")[0]).unwrap().function, "main.pileUp");
        assert!(of("main.deep")[0].elided.is_some());
        let leaked: u64 = dump.groups.iter().map(|g| g.leaked).sum();
        assert_eq!(leaked > 100, release == "go1.27", "only Go 1.27 has looked for leaks: {leaked}");
    }
}

#[test]
fn the_quick_check_agrees_with_the_decoder() {
    let mut profiles = 0;
    for body in PROFILES.iter() {
        agree(body);
        profiles += 1;
    }
    assert!(profiles >= 15);
}

/// What decodes also passes the check, with the same sum; and nothing that decodes makes the table fail.
fn agree(body: &[u8]) {
    let limits = Limits { inflated_bytes: 8 << 20, ..Limits::default() };
    let checked = validate::check(body, &limits);
    if let Ok(profile) = Profile::parse(body, &limits) {
        let total = profile.samples().fold(0i64, |sum, sample| sum.wrapping_add(sample.values[0]));
        let checked = checked.expect("what decodes is a complete profile");
        assert_eq!((checked.total, checked.samples), (total, profile.samples().len() as u64));
        top::text(&profile, None, &top::Options::default(), &TimeZone::UTC).unwrap();
        top::growth(&profile, &profile, None).ok();
    }
}

fn all(extension: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pprof");
    let mut names: Vec<_> =
        RELEASES.iter().flat_map(|release| fs::read_dir(dir.join(release)).unwrap()).map(|e| e.unwrap().path()).collect();
    names.sort();
    names.iter().filter(|path| path.extension().is_some_and(|e| e == extension)).map(|path| fs::read(path).unwrap()).collect()
}

static PROFILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| all("gz"));
static TEXTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| all("txt"));

/// The profiles without their gzip, so that damage reaches the decoder.
static PLAIN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let inflate = |body: &Vec<u8>| {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&body[..]), &mut plain).unwrap();
        plain
    };
    PROFILES.iter().map(inflate).collect()
});

/// Flips bits and perhaps cuts the end off.
fn damage(body: &[u8], flips: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    let mut body = body.to_vec();
    for (at, bit) in flips {
        let at = at.index(body.len());
        body[at] ^= 1 << (bit & 7);
    }
    if let Some(cut) = cut {
        body.truncate(cut.index(body.len()));
    }
    body
}

fn read_texts(text: &[u8]) {
    if let Ok(dump) = goroutine::parse(text, &goroutine::Limits::default()) {
        let grouped = dump.groups.iter().fold(dump.others, |sum, g| sum.saturating_add(g.count));
        assert_eq!(dump.total, grouped);
        dump.groups.iter().for_each(|g| assert!(dump.stack(g).len() <= 256));
    }
    memtrap::anatomy::memstats::parse(text).ok();
}

fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_profiles_never_panic(i in any::<prop::sample::Index>(), flips in flips(), cut in any::<Option<prop::sample::Index>>()) {
        agree(&damage(&PLAIN[i.index(PLAIN.len())], &flips, cut));
        agree(&damage(&PROFILES[i.index(PROFILES.len())], &flips, cut));
    }

    #[test]
    fn a_profile_is_not_accepted_when_its_end_is_missing(i in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
        let body = &PROFILES[i.index(PROFILES.len())];
        prop_assert!(validate::check(&body[..cut.index(body.len())], &Limits::default()).is_err());
    }

    #[test]
    fn damaged_texts_never_panic(i in any::<prop::sample::Index>(), flips in flips(), cut in any::<Option<prop::sample::Index>>()) {
        read_texts(&damage(&TEXTS[i.index(TEXTS.len())], &flips, cut));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        agree(&bytes);
        read_texts(&bytes);
    }

    #[test]
    fn random_lines_never_panic(lines in prop::collection::vec("(goroutine [0-9]{1,3} \\[[a-z ,]{0,9}\\]:|\t?[a-z(.:+0-9 ]{0,9}|[0-9]{1,20} @ 0x1|#\t0x1\t[a-z+]{0,4}|\\.\\.\\.[0-9]{0,20} frames elided\\.\\.\\.|created by [a-z]?|# [A-Za-z]{1,5} = [0-9]{1,3})", 0..30)) {
        read_texts(lines.join("\n").as_bytes());
    }
}
