//! Label sets as text: an identity for memtrap, a name for people.

use std::fmt::Write;

use crate::text::one_line;

/// A longer label set is no identity that could be kept for thousands.
pub const MAX_SERIES_TEXT: usize = 8 << 10;
/// What is shown of a label set.
const MAX_SHOWN: usize = 120;

/// Writes `{a="b",c="d"}` over `out`. The labels must be sorted, so that one set has one text.
pub fn canonical<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut String) {
    out.clear();
    out.push('{');
    for (name, value) in labels {
        if out.len() > 1 {
            out.push(',');
        }
        let plain = name.bytes().enumerate().all(|(i, b)| b.is_ascii_alphabetic() || b == b'_' || (i > 0 && b.is_ascii_digit()));
        if plain && !name.is_empty() {
            out.push_str(name);
        } else {
            quoted(name, out);
        }
        out.push('=');
        quoted(value, out);
    }
    out.push('}');
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// What people call it: the `instance` label, else the first few labels. On one line, without control characters.
pub fn label_for_people<'a>(labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    if let Some((_, instance)) = labels.clone().find(|(name, value)| *name == "instance" && !value.is_empty()) {
        return one_line(instance, MAX_SHOWN);
    }
    let mut text = String::new();
    for (name, value) in labels {
        if text.len() > MAX_SHOWN {
            break;
        }
        let gap = if text.is_empty() { "" } else { " " };
        // writing to a String does not fail
        let _ = write!(text, "{gap}{name}={value}");
    }
    if text.is_empty() { "the only series".into() } else { one_line(&text, MAX_SHOWN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(labels: &[(&str, &str)]) -> String {
        let mut out = String::from("left over");
        canonical(labels.iter().copied(), &mut out);
        out
    }

    #[test]
    fn different_sets_have_different_texts() {
        assert_eq!(text(&[]), "{}");
        assert_eq!(text(&[("instance", "a:1"), ("job", "shop")]), r#"{instance="a:1",job="shop"}"#);
        assert_eq!(text(&[("a", "x\",b=\"y")]), r#"{a="x\",b=\"y"}"#);
        assert_ne!(text(&[("a", "x\",b=\"y")]), text(&[("a", "x"), ("b", "y")]));
        assert_eq!(text(&[("a b", "\\\n")]), r#"{"a b"="\\\n"}"#);
    }

    #[test]
    fn people_see_the_instance_on_one_line() {
        let shown = |labels: &[(&str, &str)]| label_for_people(labels.iter().copied());
        assert_eq!(shown(&[("instance", "10.0.0.1:6060"), ("job", "shop")]), "10.0.0.1:6060");
        assert_eq!(shown(&[("job", "shop"), ("pod", "a")]), "job=shop pod=a");
        assert_eq!(shown(&[]), "the only series");
        let hostile = shown(&[("instance", "../../x\n\u{1b}[31m<script>")]);
        assert!(!hostile.contains(char::is_control), "{hostile:?}");
        assert!(shown(&[("instance", &"x".repeat(10_000))]).len() < 200);
    }
}
