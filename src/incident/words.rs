//! Where a slot stands, and why, for people.

use super::{Muted, Phase, Slot, State, Unread};
use crate::clock::{self, Mono};
use crate::lang::{Lang, say};
use crate::trigger::{Levels, Trigger};
use crate::units::ByteSize;

impl Slot {
    /// Where it stands at `now`.
    pub fn state(&self, now: Mono) -> State {
        match (&self.phase, &self.life) {
            (Phase::Capturing { .. }, _) => State::Capturing,
            _ if self.unread.as_ref().is_some_and(|unread| now >= unread.blind_from) => State::Blind,
            (_, None) => State::Waiting,
            (Phase::Open, _) => State::Open,
            (Phase::Retrying { .. }, _) => State::Pending,
            _ if self.cooldown_until(now).is_some() => State::Cooldown,
            _ if self.throttled.is_some() => State::Throttled,
            (_, Some(life)) if life.detector.pending_for().is_some() => State::Pending,
            (_, Some(life)) if life.warming => State::Warming,
            _ => State::Armed,
        }
    }

    /// Why it is in that state, in words.
    pub fn reason(&self, levels: &Levels, now: Mono, lang: Lang) -> String {
        let said = self.reason_of_state(levels, now, lang);
        match &self.unread {
            Some(Unread { why, blind_from }) if now < *blind_from => {
                say!(lang; "{said}; the last reading failed: {why}"; "{said}；上次读取失败：{why}")
            }
            _ => said,
        }
    }

    fn reason_of_state(&self, levels: &Levels, now: Mono, lang: Lang) -> String {
        let standing = || self.life.as_ref().map_or(String::new(), |l| l.detector.standing(levels, lang));
        let cooldown = self.cooldown_until(now).map(|t| clock::human(t.since(now)));
        match self.state(now) {
            State::Capturing => match (&self.phase, &self.incident) {
                (Phase::Capturing { aside: Some(aside), .. }, _) => aside.reason.clone(),
                (_, Some(incident)) => incident.fired.reason.clone(),
                _ => String::new(),
            },
            State::Blind => self.unread.as_ref().map_or_else(String::new, |unread| unread.why.clone()),
            State::Throttled => self.throttled.as_ref().map(|why| why.words(lang)).unwrap_or_default(),
            State::Waiting => match cooldown {
                Some(left) => say!(lang; "no process matches; no capture for another {left}"; "没有匹配的进程；{left} 内不会采集"),
                None => lang.pick("no process matches", "没有匹配的进程").into(),
            },
            State::Open if self.is_by_gc() => {
                let also = cooldown.map(|left| say!(lang; ", and for another {left}"; "（至少再过 {left}）")).unwrap_or_default();
                let standing = standing();
                say!(lang;
                    "captured; over once the collector takes less again, armed again after that{also}; {standing}";
                    "已采集；回收器占用降下来即结束，此后{also}重新待命；{standing}"
                )
            }
            State::Open => {
                let rearm = ByteSize(self.incident.as_ref().map_or(0, |i| i.rearm_below));
                let also = cooldown.map(|left| say!(lang; ", and for another {left}"; "（至少再过 {left}）")).unwrap_or_default();
                let captured = say!(lang;
                    "captured; over once RSS falls below {rearm}, armed again after that{also}";
                    "已采集；RSS 降到 {rearm} 以下即结束，此后{also}重新待命"
                );
                if !self.is_on_guard() {
                    return captured;
                }
                let (rearm, standing) = (ByteSize(self.incident.as_ref().map_or(0, |i| i.rearm_below)), standing());
                say!(lang;
                    "captured as a leak, which is over once RSS falls below {rearm}; meanwhile {standing}";
                    "已作为泄漏采集，RSS 降到 {rearm} 以下即结束；其间 {standing}"
                )
            }
            State::Cooldown if self.muted != Muted::No => {
                let (standing, left, grown) = (standing(), cooldown.unwrap_or_default(), self.grown(lang));
                say!(lang; "{standing}; held back by the cooldown for another {left}{grown}"; "{standing}；冷却中，还有 {left}{grown}")
            }
            State::Cooldown => {
                let (left, grown) = (cooldown.unwrap_or_default(), self.grown(lang));
                say!(lang; "no rule is met; armed again in {left}{grown}"; "没有规则成立；{left} 后重新待命{grown}")
            }
            State::Pending => match (&self.phase, self.life.as_ref().and_then(|l| l.detector.pending_for())) {
                (Phase::Retrying { at, why, .. }, _) => {
                    let left = clock::human(at.since(now));
                    say!(lang; "{why}; next try in {left}"; "{why}；{left} 后重试")
                }
                (_, Some(held)) => {
                    let (standing, held, hold) = (standing(), clock::human(held), clock::human(levels.hold));
                    say!(lang; "{standing}; holding for {held} of {hold}"; "{standing}；已持续 {held}，需 {hold}")
                }
                _ => standing(),
            },
            State::Warming | State::Armed => standing(),
        }
    }

    fn is_by_gc(&self) -> bool {
        self.incident.as_ref().is_some_and(|incident| incident.fired.trigger == Trigger::Gc)
    }

    /// Why the cooldown is longer than it is configured, as an end of a sentence.
    fn grown(&self, lang: Lang) -> String {
        let Some((again, worse)) = self.cooldown.and_then(|c| c.growth()) else { return String::new() };
        let (times, worse) = (2u32.pow(again), ByteSize(worse));
        say!(lang;
            " ({times} times the usual, for it has come again and again; sooner only above {worse})";
            "（反复出现，为平时的 {times} 倍；超过 {worse} 则提前）"
        )
    }

    /// When a rule may next lead to a capture, in a few words.
    pub fn next_capture(&self, now: Mono, lang: Lang) -> String {
        let cooldown = self.cooldown_until(now).map(|t| clock::human(t.since(now)));
        match (&self.phase, cooldown) {
            (Phase::Capturing { .. }, _) => lang.pick("running", "进行中").into(),
            (Phase::Open, Some(left)) => say!(lang; "once recovered, in {left} at the earliest"; "恢复之后，最早 {left} 后"),
            (Phase::Open, None) => lang.pick("once recovered", "恢复之后").into(),
            (Phase::Retrying { at, .. }, _) => {
                let left = clock::human(at.since(now));
                say!(lang; "in {left}"; "{left} 后")
            }
            (Phase::Watching, Some(left)) => say!(lang; "in {left}"; "{left} 后"),
            (Phase::Watching, None) => match self.state(now) {
                State::Waiting => lang.pick("once there is a process", "有进程之后").into(),
                State::Blind => lang.pick("once RSS can be read", "能读到 RSS 之后").into(),
                State::Throttled => lang.pick("once the budget allows", "预算允许之后").into(),
                _ => lang.pick("any time", "随时").into(),
            },
        }
    }
}
