//! Text from outside, made harmless to terminals, logs and Markdown.

/// At most `max` characters on one line: control and direction-changing characters become `\u{…}`, runs of blanks one space.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut blank = false;
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
                blank = true;
                continue;
            }
            c if c.is_control() || changes_direction(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
        blank = false;
    }
    out
}

fn changes_direction(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A Markdown code span that its content cannot leave.
pub(super) fn code(text: &str) -> String {
    format!("`{}`", one_line(text, 300).replace('`', "'"))
}

/// Prose that stays prose: nothing in it starts Markdown or HTML, as long as it is not at the start of a line.
pub(super) fn prose(text: &str) -> String {
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

/// One word for a POSIX shell. Control characters are shown escaped: a path that has them cannot be pasted, nor do harm.
pub(super) fn shell(path: &str) -> String {
    let safe: String = path.chars().flat_map(|c| if c.is_control() { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect();
    format!("'{}'", safe.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
