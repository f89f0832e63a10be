//! States and numbers in words.

use std::time::Duration;

use crate::clock::human;
use crate::incident::State as Stand;
use crate::lang::{Lang, say};
use crate::units::ByteSize;

/// The name of the state, and in Chinese what it means before it.
pub(super) fn state_words(state: Stand, lang: Lang) -> &'static str {
    let zh = match state {
        Stand::Capturing => "采集中 capturing",
        Stand::Throttled => "限流 throttled",
        Stand::Pending => "将触发 pending",
        Stand::Open => "未恢复 open",
        Stand::Blind => "读不到 blind",
        Stand::Cooldown => "冷却 cooldown",
        Stand::Warming => "预热 warming",
        Stand::Armed => "待命 armed",
        Stand::Waiting => "等进程 waiting",
    };
    lang.pick(state.name(), zh)
}

/// As in verdict.json, with blanks.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " "))).unwrap_or_default()
}

/// Bytes per second as a person thinks of leaks: per minute.
pub(crate) fn words_of_slope(bytes_per_second: f64, lang: Lang) -> String {
    let per_minute = bytes_per_second * 60.0;
    if per_minute.abs() < 16.0 * 1024.0 {
        return lang.pick("flat", "平稳").into();
    }
    let (sign, size) = (if per_minute < 0.0 { '−' } else { '+' }, ByteSize(per_minute.abs() as u64));
    say!(lang; "{sign}{size}/min"; "{sign}{size}/分")
}

/// The time to the limit, where it is worth telling.
pub(crate) fn words_of_eta(seconds: Option<f64>) -> Option<String> {
    seconds.filter(|s| *s < 7.0 * 86_400.0).and_then(|s| Duration::try_from_secs_f64(s).ok()).map(human)
}
