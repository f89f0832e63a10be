//! How the last process of a place ended, for people.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::lang::{Lang, say};
use crate::units::ByteSize;

/// Pure: whoever has looked says what there was to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastEnd {
    /// When it was noticed.
    pub at: SystemTime,
    pub how: How,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By the limit of a cgroup (its path); `None`: the kernel killed, and nobody tells for what.
    OomKilled {
        of: Option<String>,
        limit: Option<u64>,
    },
    /// The host had run out of memory.
    OomKilledByHost,
    Exited(i32),
    Signalled(i32),
    /// Nobody has told: its parent has taken the status.
    Unknown,
}

impl How {
    /// Of a status as `wait` tells it. A kill by the kernel has none of its own: what is known of that goes first, unless the status contradicts it.
    pub fn of(status: Option<ExitStatus>, oom_kill: Option<How>) -> How {
        let (code, signal) = (status.and_then(|status| status.code()), status.and_then(|status| status.signal()));
        match (code, signal, oom_kill) {
            (None, None | Some(KILL), Some(killed)) => killed,
            (Some(code), ..) => How::Exited(code),
            (None, Some(signal), _) => How::Signalled(signal),
            (None, None, None) => How::Unknown,
        }
    }
}

const KILL: i32 = 9;

impl LastEnd {
    pub fn words(&self, lang: Lang) -> String {
        let at = clock::rfc3339_seconds(self.at);
        match &self.how {
            How::OomKilled { of: Some(cgroup), limit } => {
                let limit = limit.map_or_else(String::new, |limit| say!(lang; " ({})"; "（{}）", ByteSize(limit)));
                say!(lang; "OOM-killed at {at} by the limit of {cgroup}{limit}"; "{at} 被内核因内存杀死：达到 {cgroup} 的上限{limit}")
            }
            How::OomKilled { of: None, .. } => say!(lang; "OOM-killed at {at}"; "{at} 被内核因内存杀死"),
            How::OomKilledByHost => {
                say!(lang; "OOM-killed at {at}, as the host ran out of memory"; "{at} 被内核因内存杀死：主机内存耗尽")
            }
            How::Exited(code) => say!(lang; "exited with {code} at {at}"; "{at} 退出，退出码 {code}"),
            How::Signalled(signal) => say!(lang; "ended by signal {signal} at {at}"; "{at} 因信号 {signal} 结束"),
            How::Unknown => say!(lang; "ended at {at}; its parent has the status"; "{at} 结束；退出状态由其父进程取走"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_the_kernel_counted_goes_before_the_status_unless_that_says_otherwise() {
        let of = |status: Option<i32>, oom_kill| How::of(status.map(ExitStatus::from_raw), oom_kill);
        let killed = || Some(How::OomKilled { of: Some("/a".into()), limit: Some(256 << 20) });
        assert_eq!(of(Some(9), killed()), killed().unwrap());
        assert_eq!(of(None, killed()), killed().unwrap());
        assert_eq!(of(Some(2 << 8), killed()), How::Exited(2), "another process of the cgroup was killed");
        assert_eq!((of(Some(139), None), of(Some(15), None)), (How::Signalled(11), How::Signalled(15)));
        assert_eq!(of(None, None), How::Unknown);
    }

    #[test]
    fn the_words_say_whose_limit_it_was() {
        let end = LastEnd {
            at: SystemTime::UNIX_EPOCH,
            how: How::OomKilled { of: Some("/system.slice/x.service".into()), limit: Some(256 << 20) },
        };
        assert_eq!(end.words(Lang::En), "OOM-killed at 1970-01-01T00:00:00Z by the limit of /system.slice/x.service (256MiB)");
        let end = LastEnd { how: How::Exited(3), ..end };
        assert_eq!(end.words(Lang::En), "exited with 3 at 1970-01-01T00:00:00Z");
    }
}
