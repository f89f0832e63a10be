//! Text from outside, made harmless before it reaches a terminal, a log, a page, a message or a file for people.
//!
//! There is one notion of harm here, and all edges share it: characters that steer a terminal, that hide, that change the order in which
//! others are read, or that pile up over their neighbours. They are shown as `\u{202e}`, in JSON as `\u202e`, and never dropped: what
//! looks odd should be seen. Not here: markup, which the pages' templates escape.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

/// Marks that stand over one character; more is no writing of any language, but a tower of ink.
const MAX_MARKS: usize = 4;

/// Whether a character must not be shown as it is. Line breaks and tabs are among them.
pub(crate) fn is_hostile(c: char) -> bool {
    // Unicode's Cc, Cf, Zl and Zp, and what is drawn as nothing at all
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Marks that are drawn over the character before them, of the blocks that have nothing else.
fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}'
        | '\u{e47}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}')
}

/// Tells for each character of a text, in their order, whether it is shown as it is.
#[derive(Default)]
struct Judge {
    /// How many marks stand over the last character; `None`: there is none to stand over.
    marks: Option<usize>,
}

impl Judge {
    fn shows(&mut self, c: char) -> bool {
        if is_mark(c) {
            let marks = self.marks.map_or(usize::MAX, |n| n + 1);
            self.marks = Some(marks).filter(|n| *n <= MAX_MARKS);
            return marks <= MAX_MARKS;
        }
        let shown = !is_hostile(c);
        self.marks = (shown && c != ' ').then_some(0);
        shown
    }
}

/// At most `max` characters on one line: hostile characters as `\u{…}`, runs of blanks as one space.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let (mut out, mut judge, mut blank) = (String::new(), Judge::default(), false);
    for (length, c) in text.trim().chars().enumerate() {
        if length >= max {
            out.push('…');
            break;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {
                if !blank {
                    out.push(' ');
                }
                judge.shows(' ');
                blank = true;
                continue;
            }
            c if judge.shows(c) => out.push(c),
            c => out.extend(c.escape_unicode()),
        }
        blank = false;
    }
    out
}

/// The whole text with its line breaks and tabs: all else that is hostile as `\u{…}`.
pub(crate) fn lines(text: &str) -> String {
    let (mut out, mut judge) = (String::with_capacity(text.len()), Judge::default());
    for c in text.chars() {
        if judge.shows(c) || matches!(c, '\n' | '\t') {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// JSON, indented, in which hostile characters are escaped as JSON has it.
pub(crate) fn json_pretty(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| escape_json(&text))
}

/// The same on one line.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|text| escape_json(&text))
}

/// `text` is JSON. Outside of its strings are only ASCII and the line breaks of indentation.
pub(crate) fn escape_json(text: &str) -> String {
    let (mut out, mut judge) = (String::with_capacity(text.len()), Judge::default());
    for c in text.chars() {
        if judge.shows(c) || c == '\n' {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // writing to a String cannot fail
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// A Markdown code span that its content cannot leave.
pub(crate) fn code(text: &str) -> String {
    format!("`{}`", one_line(text, 300).replace('`', "'"))
}

/// Prose that stays prose: nothing in it starts Markdown or HTML, as long as it is not at the start of a line.
pub(crate) fn prose(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text, 600).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '[' | ']' | '|' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// One word for a POSIX shell. Hostile characters are shown escaped: a path that has them cannot be pasted, nor do harm.
pub(crate) fn shell(path: impl AsRef<Path>) -> String {
    let mut judge = Judge::default();
    let safe: String = path.as_ref().to_string_lossy().chars().fold(String::new(), |mut safe, c| {
        if judge.shows(c) {
            safe.push(c)
        } else {
            safe.extend(c.escape_unicode())
        }
        safe
    });
    format!("'{}'", safe.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C0, DEL, C1, directions, isolates, separators, zero width, tags, fillers, a byte order mark.
    const EVIL: &str =
        "\u{1b}[2J\u{7}\u{7f}\u{9b}31m\u{202e}\u{2066}\u{2028}\u{2029}\u{200b}\u{200f}\u{e0041}\u{3164}\u{feff}\u{61c}\u{ad}";

    #[test]
    fn no_edge_lets_a_hostile_character_through() {
        let out =
            [one_line(EVIL, 1_000), lines(EVIL), code(EVIL), prose(EVIL), shell(EVIL), json(&EVIL).unwrap(), json_pretty(&EVIL).unwrap()];
        for text in out {
            assert!(!text.contains(is_hostile), "{text:?}");
            assert!(text.contains("202e") && text.contains("2028"), "{text}");
        }
        for c in EVIL.chars().filter(|c| !c.is_ascii_graphic()) {
            assert!(is_hostile(c), "{c:?}");
        }
    }

    #[test]
    fn json_stays_json_and_loses_nothing() {
        let value = serde_json::json!({ "a\u{202e}": [EVIL, "ä 漢\u{1f600}\n\t\"\\"], "n": 1 });
        for text in [json(&value).unwrap(), json_pretty(&value).unwrap()] {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
            assert!(text.contains(r"\u202e") && text.contains(r"\udb40\udc41") && text.contains("ä 漢\u{1f600}"), "{text}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["main.(*Shop[go.shape.int]).Cart·f", "naïve cafe\u{301} 内存 память ذاكرة זיכרון ❤\u{fe0f}", "a\tb\nc"]
        {
            assert_eq!(lines(text), text);
        }
    }

    #[test]
    fn marks_may_stand_over_a_character_but_build_no_tower_and_hang_over_nothing() {
        let tower = format!("a{}", "\u{301}".repeat(500));
        assert_eq!(one_line(&tower, 6), format!("a{}\\u{{301}}…", "\u{301}".repeat(4)));
        assert_eq!(lines("\u{301}x \u{301}"), "\\u{301}x \\u{301}");
        assert!(json(&tower).unwrap().len() > 6 * 490);
    }

    #[test]
    fn control_characters_are_shown_and_never_sent() {
        assert_eq!(one_line("a\x1b[31m\n\tb\u{202e}c", 100), "a\\u{1b}[31m b\\u{202e}c");
        assert_eq!(one_line("abcdef", 3), "abc…");
    }

    #[test]
    fn hostile_text_stays_inside_its_markdown() {
        assert_eq!(code("x`; rm -rf"), "`x'; rm -rf`");
        assert_eq!(prose("<img src=x> [a](b) `c`"), "&lt;img src=x> \\[a\\](b) \\`c\\`");
    }

    #[test]
    fn a_quote_in_a_path_does_not_end_the_shell_word() {
        assert_eq!(shell("/a b/it's"), r"'/a b/it'\''s'");
    }
}
