//! A TOML table read key by key, where a mistake is noted and reading goes on.
//!
//! The keys that a table is asked for are the keys it may have: no list of them is kept beside the code that reads them.
//! This is not serde, because a derived `Deserialize` stops at the first mistake.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Report;
use crate::clock::human;
use crate::credential;

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// A wrong value: where, and what is allowed there.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: Range<usize>,
    pub message: String,
}

/// A list may have several wrong elements.
pub(super) type Read<T> = Result<T, Vec<Fault>>;

pub(super) fn fault<T>(value: &Value<'_>, message: impl Into<String>) -> Read<T> {
    Err(vec![Fault { at: value.span(), message: message.into() }])
}

/// One table, while it is read.
pub(super) struct Table<'r, 't> {
    entries: &'t DeTable<'t>,
    at: Range<usize>,
    /// What goes before a key's name in messages: `retention.`, `target "checkout": process.`
    label: String,
    /// How the user writes this section, for keys that were put elsewhere; "" for nested tables.
    section: &'static str,
    asked: Vec<&'static str>,
    failed: Vec<&'static str>,
    report: &'r mut Report,
}

impl<'t> Table<'_, 't> {
    pub fn root<'r>(entries: &'t DeTable<'t>, report: &'r mut Report) -> Table<'r, 't> {
        Table { entries, at: 0..0, label: String::new(), section: "", asked: Vec::new(), failed: Vec::new(), report }
    }

    /// Asks for a key: `None` if it is absent, or wrong and noted.
    pub fn take<T>(&mut self, key: &'static str, read: impl FnOnce(&'t Value<'t>) -> Read<T>) -> Option<T> {
        let value = self.ask(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(faults) => {
                for Fault { at, message } in faults {
                    self.report.error(at, format!("{}{key}: {message}", self.label));
                }
                self.failed.push(key);
                None
            }
        }
    }

    /// Puts the value into `slot`, which keeps what it had if the key is absent or wrong.
    pub fn set<T>(&mut self, key: &'static str, slot: &mut T, read: impl FnOnce(&'t Value<'t>) -> Read<T>) {
        if let Some(value) = self.take(key, read) {
            *slot = value;
        }
    }

    /// A table of its own at the top level, `[key]`; an empty one if it is absent.
    pub fn section(&mut self, key: &'static str, header: &'static str, empty: &'t DeTable<'t>) -> Table<'_, 't> {
        let found = self.take(key, |value| match value.get_ref() {
            DeValue::Table(entries) => Ok((entries, value.span())),
            _ => fault(value, format!("this is a table: write {header} on a line of its own, once")),
        });
        let (entries, at) = found.unwrap_or((empty, 0..0));
        self.nested(entries, at, format!("{key}."), header)
    }

    /// A table as a value; `None` if it is absent, or not a table and noted.
    pub fn table(&mut self, key: &'static str, example: &str) -> Option<Table<'_, 't>> {
        let (entries, at) = self.take(key, |value| match value.get_ref() {
            DeValue::Table(entries) => Ok((entries, value.span())),
            other => fault(value, format!("expected a table such as {example}, found {}", kind(other))),
        })?;
        let label = format!("{}{key}.", self.label);
        Some(self.nested(entries, at, label, ""))
    }

    /// The tables of `[[key]]`, each with its place; `None` if there is no such key, or if it is wrong and noted.
    pub fn tables(&mut self, key: &'static str) -> Option<Vec<(&'t DeTable<'t>, Range<usize>)>> {
        self.take(key, |value| {
            let DeValue::Array(elements) = value.get_ref() else {
                return fault(value, format!("write [[{key}]], with two brackets: there may be several"));
            };
            each(elements, |element| match element.get_ref() {
                DeValue::Table(entries) => Ok((entries, element.span())),
                other => fault(element, format!("expected a table, found {}", kind(other))),
            })
        })
    }

    pub fn nested(&mut self, entries: &'t DeTable<'t>, at: Range<usize>, label: String, section: &'static str) -> Table<'_, 't> {
        Table { entries, at, label, section, asked: Vec::new(), failed: Vec::new(), report: self.report }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'t Value<'t>> {
        self.asked.push(key);
        if !self.section.is_empty() {
            self.report.knows(key, self.section);
        }
        self.entries.get(key)
    }

    /// Every entry, for tables whose keys are the user's own.
    pub fn entries(&self) -> Vec<(&'t str, Range<usize>, &'t Value<'t>)> {
        let mut entries: Vec<_> = self.entries.iter().map(|(key, value)| (&**key.get_ref(), key.span(), value)).collect();
        entries.sort_by_key(|(_, at, _)| at.start);
        entries
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// The keys it may have, as far as it was read.
    pub fn asked(&self) -> &[&'static str] {
        &self.asked
    }

    /// How many of the keys that were asked for are there.
    pub fn given(&self) -> usize {
        self.asked.iter().filter(|key| self.has(key)).count()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys whose values were wrong.
    pub fn failed(&self) -> &[&'static str] {
        &self.failed
    }

    /// A key's value as it is, for those that may be of several kinds; the key still has to be asked for.
    pub fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.entries.get(key)
    }

    /// Where a key's value stands.
    pub fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get(key).map(Spanned::span)
    }

    /// Where the table begins: its header, or its brace.
    pub fn place(&self) -> Range<usize> {
        self.at.clone()
    }

    pub fn error(&mut self, at: Range<usize>, message: impl Display) {
        self.report.error(at, format!("{}{message}", self.label));
    }

    /// About the table as a whole.
    pub fn error_here(&mut self, message: impl Display) {
        self.report.error(self.at.clone(), format!("{}: {message}", self.own_label()));
    }

    fn own_label(&self) -> &str {
        self.label.trim_end_matches([' ', ':', '.'])
    }

    pub fn missing(&mut self, message: impl Display) {
        self.report.missing(self.at.clone(), format!("{}{message}", self.label));
    }

    pub fn warning(&mut self, at: Range<usize>, message: impl Display) {
        self.report.warning(at, format!("{}{message}", self.label));
    }

    pub fn warning_here(&mut self, message: impl Display) {
        self.report.warning(self.at.clone(), format!("{}: {message}", self.own_label()));
    }

    pub fn line(&self, at: usize) -> usize {
        self.report.line(at)
    }

    /// Every key that was not asked for is unknown; `also` are those that were dealt with in another way.
    pub fn finish(self, also: &[&str]) {
        let allowed: Rc<[&'static str]> = self.asked.into();
        for (key, _) in self.entries.iter() {
            let name = &**key.get_ref();
            if !allowed.contains(&name) && !also.contains(&name) {
                self.report.unknown_key(key.span(), &self.label, name, &allowed);
            }
        }
    }
}

/// How a value's type is called in messages.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The longest path Linux takes; nothing else that is written here is longer.
const MAX_TEXT: usize = 4_096;
/// Sizes, durations and the like: more is not quoted back.
const MAX_NUMBER: usize = 64;

/// A string that is not empty; `what` completes "expected …".
pub(super) fn text<'v>(value: &'v Value<'_>, what: &str) -> Read<&'v str> {
    match value.get_ref() {
        DeValue::String(text) if text.trim().is_empty() => fault(value, format!("empty; expected {what}")),
        DeValue::String(text) if text.len() > MAX_TEXT => fault(value, format!("longer than {MAX_TEXT} bytes; expected {what}")),
        DeValue::String(text) => Ok(text),
        other => fault(value, format!("expected {what}, found {}", kind(other))),
    }
}

/// A string that `T` reads; its error says what is allowed.
pub(super) fn parsed<T: FromStr<Err: Display>>(what: &'static str) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let text = text(value, what)?;
        if text.len() > MAX_NUMBER {
            return fault(value, format!("too long; expected {what}"));
        }
        text.parse().or_else(|e: T::Err| fault(value, e.to_string()))
    }
}

/// `read`, and then a closer look.
pub(super) fn checked<T>(read: impl Fn(&Value<'_>) -> Read<T>, check: impl Fn(&T) -> Result<(), String>) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let read = read(value)?;
        check(&read).or_else(|message| fault(value, message))?;
        Ok(read)
    }
}

/// `read`, or the word `off`.
pub(super) fn or_off<T>(read: impl Fn(&Value<'_>) -> Read<T>) -> impl Fn(&Value<'_>) -> Read<Option<T>> {
    move |value| if value.get_ref().as_str() == Some("off") { Ok(None) } else { read(value).map(Some) }
}

pub(super) fn duration(allowed: RangeInclusive<Duration>) -> impl Fn(&Value<'_>) -> Read<Duration> {
    move |value| {
        let (least, most) = (human(*allowed.start()), human(*allowed.end()));
        let what = format!("a duration from {least} to {most} such as \"500ms\", \"5s\" or \"10m\"");
        let text = text(value, &what)?;
        if text.len() > MAX_NUMBER {
            return fault(value, format!("too long; expected {what}"));
        }
        match humantime::parse_duration(text) {
            Ok(duration) if allowed.contains(&duration) => Ok(duration),
            Ok(_) => fault(value, format!("`{text}` is out of range: {least} to {most}")),
            Err(_) => fault(value, format!("`{text}` is not {what}")),
        }
    }
}

pub(super) fn integer<T: TryFrom<u64>>(allowed: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let what = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        let DeValue::Integer(integer) = value.get_ref() else {
            return fault(value, format!("expected {what}, found {}", kind(value.get_ref())));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| allowed.contains(n));
        match number.and_then(|n| T::try_from(n).ok()) {
            Some(number) => Ok(number),
            None => fault(value, format!("out of range: expected {what}")),
        }
    }
}

pub(super) fn boolean(value: &Value<'_>) -> Read<bool> {
    match value.get_ref() {
        DeValue::Boolean(flag) => Ok(*flag),
        other => fault(value, format!("expected true or false, without quotes, found {}", kind(other))),
    }
}

/// An absolute path: a daemon's working directory is not where the file's writer was.
pub(super) fn path(value: &Value<'_>) -> Read<PathBuf> {
    let path = PathBuf::from(text(value, "an absolute path such as \"/var/lib/memtrap\"")?);
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return fault(value, "a path cannot hold a NUL character");
    }
    if path.is_absolute() { Ok(path) } else { fault(value, "the path must be absolute: begin it with `/`") }
}

/// The file that holds a secret: a path, or `credential:NAME` for one that systemd hands to memtrap's unit.
pub(super) fn secret_file(value: &Value<'_>) -> Read<PathBuf> {
    let Some(name) = value.get_ref().as_str().and_then(|text| text.strip_prefix(credential::PREFIX)) else {
        return path(value);
    };
    if credential::is_name(name) {
        return Ok(format!("{}{name}", credential::PREFIX).into());
    }
    fault(value, "write credential:NAME with the name that LoadCredential= of memtrap's unit gives: no `/`, at most 255 bytes")
}

/// A list of at most `most` elements.
pub(super) fn list<T>(what: &'static str, most: usize, read: impl Fn(&Value<'_>) -> Read<T>) -> impl Fn(&Value<'_>) -> Read<Vec<T>> {
    move |value| match value.get_ref() {
        DeValue::Array(elements) if elements.len() > most => fault(value, format!("at most {most} elements")),
        DeValue::Array(elements) => each(elements, &read),
        other => fault(value, format!("expected {what}, found {}", kind(other))),
    }
}

/// Reads every element, and notes every wrong one.
fn each<'v, 't, T>(elements: &'v [Value<'t>], read: impl Fn(&'v Value<'t>) -> Read<T>) -> Read<Vec<T>> {
    let mut faults = Vec::new();
    let good = elements.iter().filter_map(|element| read(element).map_err(|f| faults.extend(f)).ok()).collect();
    if faults.is_empty() { Ok(good) } else { Err(faults) }
}
