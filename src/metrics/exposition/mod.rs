//! A page of metrics, in Prometheus' text format or OpenMetrics: the wanted series picked out while the bytes come in.
//!
//! Most lines are of no interest and cost one comparison; nothing is kept of a page but the values asked for and one unfinished
//! line. What is wrong elsewhere on the page does not matter; what is wrong with a wanted metric is said.

use super::collector::{CollectorSaid, Gathered};
use super::gostats::{self, GoStats};
use super::{Pick, START_TIME};
use crate::anatomy::GoMemory;
use crate::text::one_line;

/// Real lines are far shorter.
const MAX_LINE: usize = 64 << 10;
/// Of a metric's name in a message.
const MAX_NAME: usize = 80;

/// What a page says.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// For each [`Pick`], in order.
    pub values: Vec<Result<f64, Absent>>,
    /// The one `process_start_time_seconds`, if there is one.
    pub started: Option<f64>,
    pub go: Option<GoMemory>,
    /// What Go's collector has done, where that is told.
    pub collector: Option<CollectorSaid>,
}

/// Why there is no one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    #[error("the page is empty")]
    EmptyPage,
    #[error("the answer is a web page, not metrics: is it the right URL?")]
    WebPage,
    #[error("the page has no {metric}")]
    NoMetric { metric: String },
    #[error("none of the {series} series of {metric} has the labels {labels}")]
    NoSeries { metric: String, series: u64, labels: String },
    #[error("{series} series of {metric} fit: add to `labels` what tells them apart")]
    Several { metric: String, series: u64 },
    #[error("line {line}, of {metric}, cannot be read: {why}")]
    Malformed { metric: String, line: u64, why: &'static str },
}

impl Absent {
    /// The page is fine, and the series is not on it: its process may be gone. Otherwise something is wrong.
    pub fn is_vanished(&self) -> bool {
        matches!(self, Absent::NoMetric { .. } | Absent::NoSeries { .. })
    }
}

/// Reads a page piece by piece.
#[derive(Debug)]
pub struct Reader<'p> {
    picks: Vec<Picked<'p>>,
    start: Picked<'p>,
    go: GoStats,
    collector: Gathered,
    /// The beginning of a line whose end has not come yet.
    open: Vec<u8>,
    /// Of that line more came than is kept.
    cut: bool,
    line: u64,
    first: Option<u8>,
    /// OpenMetrics' `# EOF` was seen: what follows is none of the page.
    ended: bool,
}

#[derive(Debug)]
struct Picked<'p> {
    metric: &'p str,
    labels: &'p [(String, String)],
    fit: u64,
    others: u64,
    value: f64,
    malformed: Option<(u64, &'static str)>,
}

impl<'p> Picked<'p> {
    fn new(metric: &'p str, labels: &'p [(String, String)]) -> Picked<'p> {
        Picked { metric, labels, fit: 0, others: 0, value: 0.0, malformed: None }
    }

    fn result(&self) -> Result<f64, Absent> {
        let metric = || one_line(self.metric, MAX_NAME);
        match (self.malformed, self.fit) {
            (Some((line, why)), _) => Err(Absent::Malformed { metric: metric(), line, why }),
            (None, 1) => Ok(self.value),
            (None, 0) if self.others == 0 => Err(Absent::NoMetric { metric: metric() }),
            (None, 0) => {
                let mut labels = String::new();
                super::canonical(self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())), &mut labels);
                Err(Absent::NoSeries { metric: metric(), series: self.others, labels: one_line(&labels, 200) })
            }
            (None, series) => Err(Absent::Several { metric: metric(), series }),
        }
    }
}

impl<'p> Reader<'p> {
    pub fn new(picks: impl IntoIterator<Item = &'p Pick>) -> Reader<'p> {
        Reader {
            picks: picks.into_iter().map(|pick| Picked::new(&pick.metric, &pick.labels)).collect(),
            start: Picked::new(START_TIME, &[]),
            go: GoStats::default(),
            collector: Gathered::default(),
            open: Vec::new(),
            cut: false,
            line: 0,
            first: None,
            ended: false,
        }
    }

    /// Takes the next bytes, cut anywhere.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        self.first = self.first.or_else(|| bytes.iter().copied().find(|b| !b.is_ascii_whitespace()));
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
            if self.open.is_empty() {
                self.whole_line(line, false);
            } else {
                self.keep(line);
                let line = std::mem::take(&mut self.open);
                let cut = std::mem::take(&mut self.cut);
                self.whole_line(&line, cut);
                // its room is used again
                self.open = line;
                self.open.clear();
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    fn keep(&mut self, part: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.open.len());
        self.cut |= part.len() > room;
        self.open.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
    }

    /// The page has ended.
    pub fn finish(mut self) -> Page {
        if !self.open.is_empty() {
            // a number that lost its last digits would look like one: a line without its end is not believed
            let line = std::mem::take(&mut self.open);
            self.line += 1;
            if let Some(name) = name_of(&line) {
                self.blame(&name, "the page ends in the middle of it");
            }
        }
        let page = match self.first {
            None => Some(Absent::EmptyPage),
            Some(b'<') => Some(Absent::WebPage),
            _ => None,
        };
        Page {
            values: self.picks.iter().map(|picked| page.clone().map_or_else(|| picked.result(), Err)).collect(),
            started: self.start.result().ok(),
            go: self.go.finish(),
            collector: self.collector.finish(self.start.result().ok()),
        }
    }

    fn whole_line(&mut self, line: &[u8], cut: bool) {
        self.line += 1;
        let line = line.trim_ascii();
        if line.first() == Some(&b'#') {
            self.ended |= line == b"# EOF";
            return;
        }
        if self.ended || line.is_empty() {
            return;
        }
        let Some(name) = name_of(line) else { return };
        if cut {
            self.blame(&name, "it is too long");
        } else if Gathered::wants(&name) {
            self.go_line(line, &name);
        }
        let number = self.line;
        for picked in self.picks.iter_mut().chain([&mut self.start]).filter(|p| !cut && p.metric.as_bytes() == &*name) {
            match sample(line, picked.labels) {
                Ok((true, value)) => {
                    picked.fit += 1;
                    picked.value = value;
                }
                Ok((false, _)) => picked.others += 1,
                Err(why) => picked.malformed = picked.malformed.or(Some((number, why))),
            }
        }
    }

    fn blame(&mut self, name: &[u8], why: &'static str) {
        let number = self.line;
        for picked in self.picks.iter_mut().chain([&mut self.start]).filter(|p| p.metric.as_bytes() == name) {
            picked.malformed = picked.malformed.or(Some((number, why)));
        }
    }

    fn go_line(&mut self, line: &[u8], name: &[u8]) {
        // without labels: another library may expose several processes' numbers
        if let (Ok((true, value)), false) = (sample(line, &[]), line.contains(&b'{')) {
            name.strip_prefix(gostats::PREFIX).into_iter().for_each(|key| self.go.take(key, value));
            self.collector.take(name, value);
        }
    }
}

/// The metric's name: before the braces, or the quoted one inside of them. `None` if there is none.
fn name_of(line: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    let end = line.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')).unwrap_or(line.len());
    let name = line.get(..end)?;
    if !name.is_empty() {
        return Some(name.into());
    }
    // {"a name", label="value"} 1
    let mut rest = line.strip_prefix(b"{")?.trim_ascii_start();
    loop {
        let (text, after) = quoted(rest)?;
        let after = after.trim_ascii_start();
        match after.strip_prefix(b"=") {
            // a label whose name is quoted; the metric's name may come later
            Some(value) => {
                let (_, after) = quoted(value.trim_ascii_start())?;
                rest = after.trim_ascii_start().strip_prefix(b",")?.trim_ascii_start();
            }
            None => return Some(unescaped(text)),
        }
    }
}

/// Takes a string off the front: what is between its quotes, and what follows.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = inner.iter().position(|b| {
        let end = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        end
    })?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

/// `\\`, `\"` and `\n` stand for one character; a backslash before another stands for itself.
fn unescaped(raw: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return raw.into();
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        let meant = match (b, bytes.peek()) {
            (b'\\', Some(b'\\')) => b'\\',
            (b'\\', Some(b'"')) => b'"',
            (b'\\', Some(b'n')) => b'\n',
            _ => {
                out.push(b);
                continue;
            }
        };
        bytes.next();
        out.push(meant);
    }
    out.into()
}

/// A sample's line: whether it has the wanted labels, and its value.
fn sample(line: &[u8], wanted: &[(String, String)]) -> Result<(bool, f64), &'static str> {
    let end = line.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')).unwrap_or(line.len());
    let mut rest = line.get(end..).unwrap_or_default().trim_ascii_start();
    let mut fits = Fits { wanted, found: 0, excess: false };
    if let Some(inner) = rest.strip_prefix(b"{") {
        rest = labels(inner, &mut fits)?;
    }
    let mut tokens = rest.split(|b| b.is_ascii_whitespace()).filter(|t| !t.is_empty());
    let value = tokens.next().ok_or("it has no value")?;
    let value = std::str::from_utf8(value).ok().and_then(|v| v.parse::<f64>().ok()).ok_or("its value is no number")?;
    // a timestamp, an exemplar: neither is of use here, but the line must end in nothing else
    match tokens.next() {
        None | Some(b"#") => {}
        Some(t) if std::str::from_utf8(t).is_ok_and(|t| t.parse::<f64>().is_ok()) && matches!(tokens.next(), None | Some(b"#")) => {}
        Some(_) => return Err("something follows its value that is no timestamp"),
    }
    Ok((fits.all(), value))
}

/// Compares labels with the wanted ones as they come.
struct Fits<'w> {
    wanted: &'w [(String, String)],
    found: usize,
    /// A label that should be absent is there.
    excess: bool,
}

impl Fits<'_> {
    fn see(&mut self, name: &[u8], value: &[u8]) {
        let Some((_, wanted)) = self.wanted.iter().find(|(wanted, _)| wanted.as_bytes() == name) else { return };
        if wanted.is_empty() {
            self.excess |= !value.is_empty();
        } else {
            self.found += usize::from(wanted.as_bytes() == value);
        }
    }

    fn all(&self) -> bool {
        !self.excess && self.found == self.wanted.iter().filter(|(_, value)| !value.is_empty()).count()
    }
}

/// Reads labels up to the closing brace; returns what follows it.
fn labels<'l>(mut rest: &'l [u8], fits: &mut Fits<'_>) -> Result<&'l [u8], &'static str> {
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b"}") {
            return Ok(after);
        }
        let name = match quoted(rest) {
            Some((name, after)) => {
                rest = after.trim_ascii_start();
                unescaped(name)
            }
            None => {
                let end = rest.iter().position(|b| matches!(b, b'=' | b' ' | b'\t' | b',' | b'}' | b'"')).unwrap_or(rest.len());
                let name = rest.get(..end).unwrap_or_default();
                if name.is_empty() {
                    return Err("a label has no name, or the braces are not closed");
                }
                rest = rest.get(end..).unwrap_or_default().trim_ascii_start();
                name.into()
            }
        };
        if let Some(value) = rest.strip_prefix(b"=") {
            let (value, after) = quoted(value.trim_ascii_start()).ok_or("a label's value is not in quotes, or they are not closed")?;
            fits.see(&name, &unescaped(value));
            rest = after;
        }
        // else it is the metric's own name in quotes
        rest = rest.trim_ascii_start();
        match rest.first() {
            Some(b',') => rest = rest.get(1..).unwrap_or_default(),
            Some(b'}') => {}
            _ => return Err("its labels are not separated by commas, or the braces are not closed"),
        }
    }
}

#[cfg(test)]
mod tests;
