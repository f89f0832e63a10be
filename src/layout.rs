//! Text laid out for people: columns and wrapped lines, by the columns that characters take in a terminal.

/// Columns of a terminal: Chinese characters and their punctuation take two.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

/// The blocks of East Asian text, as Unicode's East Asian Width has them; not emoji, which nothing here prints.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{303e}' | '\u{3041}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff01}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}')
}

/// Aligns columns two spaces apart; the last is not padded. Rows may be of different lengths.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(self::width(cell)) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Breaks at spaces, and between wide characters, so that lines take at most `width` columns where words allow it; `indent` comes before
/// each but the first.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut out = String::new();
    let mut length = self::width(indent);
    for (i, word) in text.split(' ').enumerate() {
        for (j, piece) in pieces(word).enumerate() {
            let space = usize::from(i > 0 && j == 0);
            let piece_width = self::width(piece);
            if (i, j) != (0, 0) && length + space + piece_width > width {
                out.push('\n');
                out.push_str(indent);
                length = self::width(indent);
            } else if space == 1 {
                out.push(' ');
                length += 1;
            }
            out.push_str(piece);
            length += piece_width;
        }
    }
    out
}

/// Where a word may be broken: before a wide character that is no punctuation. A word of others is one piece.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let breaks = word.char_indices().filter(|(i, c)| *i > 0 && is_wide(*c) && c.is_alphanumeric()).map(|(i, _)| i);
    let ends = breaks.chain([word.len()]);
    let mut from = 0;
    ends.map(move |to| {
        let piece = word.get(from..to).unwrap_or_default();
        from = to;
        piece
    })
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

    #[test]
    fn chinese_characters_take_two_columns_and_break_anywhere_but_before_punctuation() {
        assert_eq!([width("RSS"), width("内存"), width("，"), width("…é")], [3, 4, 2, 2]);
        let rows = [vec!["堆".into(), "1".into()], vec!["heap".into(), "2".into()]];
        assert_eq!(columns(&rows), "堆    1\nheap  2\n");
        assert_eq!(wrapped("对象仍然可达，是程序", 12, ""), "对象仍然可\n达，是程序");
        assert_eq!(wrapped("看 inuse_space 与堆", 6, "  "), "看\n  inuse_space\n  与堆");
    }
}
