//! Text laid out for people: columns and wrapped lines.

/// Aligns columns two spaces apart; the last is not padded. Rows may be of different lengths.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..count).map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Breaks at spaces so that lines have at most `width` characters where words allow it; `indent` comes before each but the first.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut out = String::new();
    let mut length = indent.chars().count();
    for (i, word) in text.split(' ').enumerate() {
        let word_length = word.chars().count();
        if i > 0 && length + 1 + word_length > width {
            out.push('\n');
            out.push_str(indent);
            length = indent.chars().count();
        } else if i > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += word_length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_space() {
        let rows = [vec!["a".into(), "rss".into()], vec!["checkout".into(), "1.5GiB".into()], vec!["é".into()]];
        assert_eq!(columns(&rows), "a         rss\ncheckout  1.5GiB\né\n");
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_stay_whole() {
        assert_eq!(wrapped("one two three", 7, ""), "one two\nthree");
        assert_eq!(wrapped("one two three", 9, "  "), "one two\n  three");
        assert_eq!(wrapped("abcdefghij k", 4, ""), "abcdefghij\nk");
    }
}
