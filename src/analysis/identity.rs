//! Whether what pprof said is of the process that the kernel's evidence is of. Behind one address there may be several: replicas behind a
//! balancer, a successor, a neighbour. A verdict of evidence of two processes is about neither.
//!
//! Three things prove that an answer is another's. Go's profiles have the process's executable mappings, and the kernel puts its own code
//! (the vDSO) somewhere else in each process. MemStats has the most RSS that its process ever had, which is not less than what this one has
//! had before. And counters of one process do not fall. (That the most is more than this one's proves nothing: it is inherited from who
//! started it.)

use crate::anatomy::GoMemory;
use crate::lang::{Lang, say};
use crate::pprof::Profile;
use crate::units::ByteSize;

/// RSS counters lag behind by some hundred KiB a processor.
const SLACK: u64 = 16 << 20;

/// What one process would have said.
#[derive(Debug, Default)]
pub struct Said<'a> {
    /// Where the kernel says that the vDSO is.
    pub vdso: Option<u64>,
    /// What the process had before anything was asked.
    pub rss: Option<u64>,
    pub profiles: Vec<(&'static str, &'a Profile)>,
    pub memstats: Option<GoMemory>,
    pub memstats_gc: Option<GoMemory>,
}

#[derive(Debug, PartialEq)]
pub enum Identity {
    /// The profiles are of this process.
    Proven,
    Unknown,
    /// Some are of another: why.
    Another(Vec<String>),
}

/// Where the process had its vDSO.
pub fn vdso(profile: &Profile) -> Option<u64> {
    profile.mappings.iter().find(|mapping| profile.str(mapping.file) == "[vdso]").map(|mapping| mapping.start)
}

pub fn of(said: &Said<'_>, lang: Lang) -> Identity {
    let mut why = Vec::new();
    let told: Vec<(&str, u64)> = said.profiles.iter().filter_map(|(name, profile)| Some((*name, vdso(profile)?))).collect();
    let here = said.vdso.or(told.first().map(|(_, at)| *at));
    if let Some((name, _)) = told.iter().find(|(_, at)| Some(*at) != here) {
        why.push(match said.vdso {
            Some(_) => say!(lang;
                "{name} is of another process: the kernel's vDSO is elsewhere in it than in this one";
                "{name} 属于另一个进程：其中内核 vDSO 的地址与本进程不同"
            ),
            None => say!(lang;
                "the profiles are of several processes: the kernel's vDSO is elsewhere in {name} than in the first";
                "这些 profile 来自多个进程：{name} 中内核 vDSO 的地址与第一个不同"
            ),
        });
    }
    for (name, memstats) in [("memstats.txt", said.memstats), ("memstats_gc.txt", said.memstats_gc)] {
        let most = memstats.and_then(|m| m.max_rss).filter(|most| *most > 0);
        if let Some((most, rss)) = most.zip(said.rss).filter(|(most, rss)| most.saturating_add(SLACK).saturating_add(most / 20) < *rss) {
            let (most, rss) = (ByteSize(most), ByteSize(rss));
            why.push(say!(lang;
                "{name} is of another process: that never had more than {most} of RSS (MaxRSS), and this one had {rss} before";
                "{name} 属于另一个进程：它的 RSS 从未超过 {most}（MaxRSS），而本进程此前已有 {rss}"
            ));
        }
    }
    if let Some((before, after)) = said.memstats.zip(said.memstats_gc) {
        let fell = after.total_alloc < before.total_alloc || before.num_gc.zip(after.num_gc).is_some_and(|(before, after)| after < before);
        if fell {
            why.push(
                lang.pick(
                    "memstats.txt and memstats_gc.txt are of two processes: counters that only rise fell between them",
                    "memstats.txt 与 memstats_gc.txt 来自两个进程：只增不减的计数器变小了",
                )
                .into(),
            );
        }
    }
    match why.is_empty() {
        false => Identity::Another(why),
        true if said.vdso.is_some() && !told.is_empty() => Identity::Proven,
        true => Identity::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pprof::Limits;
    use crate::pprof::testing::{Pb, profile};

    fn taken_at(vdso: i64) -> Profile {
        let mut body = profile(&[("inuse_space", "bytes")], &[(&["main.f"], &[1])]);
        // the table of strings goes on: "", the type, its unit, the function, its file
        body = body.len(6, b"[vdso]").message(3, Pb::default().int(1, 1).int(2, vdso).int(3, vdso + 8192).int(5, 5));
        Profile::parse(&body.0, &Limits::default()).unwrap()
    }

    fn identity(kernel: Option<u64>, profiles: &[i64]) -> Identity {
        let profiles: Vec<Profile> = profiles.iter().map(|at| taken_at(*at)).collect();
        of(&Said { vdso: kernel, profiles: profiles.iter().map(|p| ("heap.pb.gz", p)).collect(), ..Said::default() }, Lang::En)
    }

    #[test]
    fn the_place_of_the_vdso_tells_whose_a_profile_is() {
        assert_eq!(identity(Some(0x7000), &[0x7000, 0x7000]), Identity::Proven);
        assert_eq!(identity(Some(0x7000), &[]), Identity::Unknown);
        assert_eq!(identity(None, &[0x7000, 0x7000]), Identity::Unknown);
        assert!(matches!(identity(Some(0x7000), &[0x7000, 0x9000]), Identity::Another(why) if why.len() == 1));
        assert!(matches!(identity(None, &[0x7000, 0x9000]), Identity::Another(_)));
    }

    #[test]
    fn a_process_that_never_had_so_much_is_another_one() {
        let memstats = |most: u64| Some(GoMemory { max_rss: Some(most << 20), ..GoMemory::default() });
        let of = |rss: u64, most| of(&Said { rss: Some(rss << 20), memstats: memstats(most), ..Said::default() }, Lang::En);
        assert!(matches!(of(500, 60), Identity::Another(_)));
        assert_eq!(of(500, 490), Identity::Unknown);
        // it is inherited from who started it
        assert_eq!(of(60, 500), Identity::Unknown);
        assert_eq!(of(500, 0), Identity::Unknown, "not every system says it");
    }

    #[test]
    fn counters_that_fall_are_of_two_processes() {
        let memstats = |total_alloc, num_gc| Some(GoMemory { total_alloc, num_gc: Some(num_gc), ..GoMemory::default() });
        let of = |before, after| of(&Said { memstats: before, memstats_gc: after, ..Said::default() }, Lang::En);
        assert_eq!(of(memstats(10, 1), memstats(20, 2)), Identity::Unknown);
        assert!(matches!(of(memstats(20, 1), memstats(10, 2)), Identity::Another(_)));
        assert!(matches!(of(memstats(10, 9), memstats(20, 2)), Identity::Another(_)));
    }
}
