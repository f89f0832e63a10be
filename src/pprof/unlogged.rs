//! Lines of a dump out of lines of a log that has escaped them: JSON (of docker's json-file, of loggers), or `\n` and `\t` in any text.
//!
//! Bounded by the line that is given; what a log escapes twice is undone twice.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A container's runtime and a logger in it, and one more.
const MAX_DEPTH: u32 = 3;
/// Before the object: a time, a stream's name, a pod's.
const MAX_BEFORE: usize = 300;
/// Where loggers and runtimes put the line itself.
const MESSAGES: [&str; 7] = ["log", "msg", "message", "MESSAGE", "textPayload", "text", "line"];
const GOROUTINE: &str = "goroutine ";

/// The lines that this line of a log holds, in their order; `None`: it is no escaped one. What was several lines ends with an empty one.
pub fn lines(line: &[u8]) -> Option<Vec<String>> {
    // most lines are told by this
    if !line.contains(&b'{') && !line.contains(&b'\\') {
        return None;
    }
    let mut found = Vec::new();
    unfold(std::str::from_utf8(line).ok()?, MAX_DEPTH, &mut found).then_some(found)
}

/// Whether an escaped dump begins in this part of a log.
pub fn mentions(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| line.contains("\\n") && heads(line))
}

fn unfold(line: &str, depth: u32, into: &mut Vec<String>) -> bool {
    let Some(text) = object(line).or_else(|| escaped(line)).filter(|_| depth > 0) else { return false };
    let is_one = !text.trim_end_matches('\n').contains('\n');
    for inner in text.trim_end_matches('\n').split('\n') {
        let inner = inner.trim_end_matches('\r');
        if !unfold(inner, depth - 1, into) {
            into.push(inner.to_owned());
        }
    }
    if !is_one {
        into.push(String::new());
    }
    true
}

/// The text that matters of a line that is, or ends with, a JSON object.
fn object(line: &str) -> Option<String> {
    let head: &str = line.get(..MAX_BEFORE.min(line.len())).unwrap_or(line);
    let at = head.find("{\"")?;
    let strings = strings(line.get(at..)?)?;
    let dumps: Vec<&str> = strings.iter().map(|(_, text)| text.as_str()).filter(|text| is_dump(text)).collect();
    if let Some(longest) = dumps.into_iter().max_by_key(|text| text.len()) {
        return Some(longest.to_owned());
    }
    let message = |name: &&str| strings.iter().find(|(key, _)| key == name).map(|(_, text)| text.clone());
    MESSAGES.iter().find_map(message)
}

/// It has a goroutine's head and more lines, escaped once more or not.
fn is_dump(text: &str) -> bool {
    (text.contains('\n') || text.contains("\\n")) && heads(text)
}

fn heads(text: &str) -> bool {
    text.split(GOROUTINE).skip(1).any(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let after = rest.get(digits..).unwrap_or_default();
        digits > 0 && (after.starts_with(" [") || after.starts_with(" gp="))
    }) || text.contains("goroutine profile: total ")
}

/// A line in which a dump stands with `\n` for its line ends.
fn escaped(line: &str) -> Option<String> {
    if !line.contains("\\n") || !heads(line) {
        return None;
    }
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => {}
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                text.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
            }
            Some(other) => text.push(other),
            None => text.push('\\'),
        }
    }
    Some(text)
}

/// Every string of an object with its key, those of objects in it too.
fn strings(json: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json);
    Collect { key: String::new(), found: &mut found }.deserialize(&mut reader).ok()?;
    Some(found)
}

struct Collect<'f> {
    key: String,
    found: &'f mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.found.push((self.key, text.to_owned()));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Collect { key, found: &mut *self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Vec<String> {
        lines(line.as_bytes()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_escaped_line_is_left_alone() {
        for line in ["goroutine 1 [running]:", "main.f({0x1, 0x2})", "\t/src/a\\nb.go:7", "{\"no\":1}", "{\"torn", "[1]", ""] {
            assert_eq!(lines(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_message_is_its_line_and_a_dump_its_lines() {
        assert_eq!(of(r#"{"log":"\tmain.go:7 +0x1d\n","stream":"stderr","time":"t"}"#), ["\tmain.go:7 +0x1d"]);
        assert_eq!(of(r#"{"log":"\n","stream":"stderr"}"#), [""]);
        let dump = ["goroutine 1 [running]:", "main.main()", "\t/m.go:7", ""];
        assert_eq!(of(r#"{"level":"fatal","n":1,"error":{"stack":"goroutine 1 [running]:\nmain.main()\n\t/m.go:7\n"},"msg":"x"}"#), dump);
        assert_eq!(of(r#"level=fatal stack=goroutine 1 [running]:\nmain.main()\n\t/m.go:7"#)[1..], dump[1..]);
        let twice = serde_json::json!({ "log": format!("{}\n", serde_json::json!({ "msg": dump.join("\n") })) }).to_string();
        assert_eq!(of(&twice), dump);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}1{}", "{\"log\":".repeat(5_000), "}".repeat(5_000));
        assert_eq!(lines(deep.as_bytes()), None);
    }
}
