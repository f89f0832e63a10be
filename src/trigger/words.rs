//! Where each rule stands, in words: why nothing fires.

use super::levels::Stage;
use super::rise::{Standing, time_to};
use super::{Detector, Levels};
use crate::charge::Charge;
use crate::clock;
use crate::lang::{Lang, say};
use crate::units::{ByteSize, SizeOrPercent};

impl Detector {
    /// Where each rule stands, in words: why nothing fires.
    pub fn standing(&self, levels: &Levels, lang: Lang) -> String {
        let mut words = Vec::new();
        if let Some((stage, last)) = levels.stages.get(self.stage).or(levels.stages.last()).zip(self.last()) {
            let compared = last.of(stage);
            let share = compared as f64 / stage.bytes.max(1) as f64 * 100.0;
            let of = threshold_words(stage, levels.limit, lang);
            words.push(match self.charge.as_ref().filter(|_| compared > last.rss) {
                None => say!(lang; "RSS is {share:.0}% of {of}"; "RSS 为{of}的 {share:.0}%"),
                Some(charge) => {
                    let (charge, rss) = (charge_words(charge, lang), ByteSize(last.rss));
                    say!(lang; "{charge} (RSS {rss}) is {share:.0}% of {of}"; "{charge}（RSS {rss}）为{of}的 {share:.0}%")
                }
            });
        }
        if let Some((tracked, (rise, rate))) = self.slope.as_ref().zip(levels.slope) {
            let over = |slope: f64| {
                let (rise, window) = (signed(slope * rate.window.as_secs_f64()), clock::human(rate.window));
                say!(lang; "{rise} in {window}"; "{window} 内 {rise}")
            };
            let (stands, rise) = (tracked.standing.words(over, lang), ByteSize(rise));
            words.push(say!(lang; "slope: {stands} (fires at {rise})"; "slope：{stands}（达到 {rise} 触发）"));
        }
        if let Some((tracked, eta)) = self.eta.as_ref().zip(levels.eta) {
            let left = |slope| match levels.limit.zip(self.last()).and_then(|(limit, last)| time_to(limit, last.most, slope)) {
                Some(t) => {
                    let left = clock::human(t);
                    say!(lang; "limit in {left}"; "{left} 后到上限")
                }
                None => lang.pick("not rising", "没有上升").into(),
            };
            let (stands, eta) = (tracked.standing.words(left, lang), clock::human(eta));
            words.push(say!(lang; "eta: {stands} (fires within {eta})"; "eta：{stands}（{eta} 以内触发）"));
        }
        words.extend(self.gc.as_ref().map(|gc| gc.words(lang)));
        words.extend(self.leak().and_then(|leak| leak.words(levels, lang)));
        if words.is_empty() {
            let (en, zh) = ("no rule can hold: the limit that its percentages are of is unknown", "没有规则能成立：百分比所依据的上限未知");
            words.push(lang.pick(en, zh).into());
        }
        words.join(lang.pick("; ", "；"))
    }

    /// Why a rise that is steep enough for `slope` is not taken for one.
    pub fn why_no_slope(&self, lang: Lang) -> Option<String> {
        match self.slope.as_ref()?.standing {
            Standing::Slope(_, means) => means.why_not(lang),
            _ => None,
        }
    }
}

pub(super) fn threshold_words(stage: &Stage, limit: Option<u64>, lang: Lang) -> String {
    let level = ByteSize(stage.bytes);
    match (stage.as_written, limit.map(ByteSize)) {
        (SizeOrPercent::Percent(share), Some(limit)) => {
            say!(lang; "the threshold of {level} ({share} of the limit of {limit})"; "阈值 {level}（上限 {limit} 的 {share}）")
        }
        _ => say!(lang; "the threshold of {level}"; "阈值 {level} "),
    }
}

pub(super) fn charge_words(charge: &Charge, lang: Lang) -> String {
    let (bytes, limit, cgroup) = (ByteSize(charge.bytes), ByteSize(charge.limit), &charge.cgroup);
    say!(lang;
        "the charge of cgroup {cgroup}, {bytes} of {limit}"; "cgroup {cgroup} 中不可回收的 {bytes}（上限 {limit}）"
    )
}

fn signed(bytes: f64) -> String {
    format!("{}{}", if bytes < 0.0 { "-" } else { "+" }, ByteSize(bytes.abs() as u64))
}
