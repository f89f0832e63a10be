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
    table(rows, None)
}

/// What a column keeps at least when a table is made narrower.
const NARROWEST: usize = 10;
const BELOW: &str = "    ";

/// A table within the columns of a terminal, where there is one (`width`): the widest columns break their cells, at blanks and after slashes
/// where they can. The first column, which names the row, is never broken; where it leaves too little room, the rest stands below it.
pub fn table(rows: &[Vec<String>], width: Option<usize>) -> String {
    painted(rows, width, |_, _, text| text.to_owned()).concat()
}

/// The same as a text for each row, which may have several lines. `paint` gets the row's and the column's number and what stands there, and
/// may add what takes no column.
pub fn painted(rows: &[Vec<String>], width: Option<usize>, paint: impl Fn(usize, usize, &str) -> String) -> Vec<String> {
    let natural = widths(rows);
    let fits = width.is_none_or(|width| total(&natural) <= width);
    let width = width.unwrap_or(usize::MAX);
    if let Some(narrow) = if fits { Some(natural) } else { narrowed(&natural, 1, width) } {
        let shown = |(i, row): (usize, &Vec<String>)| broken(row, &narrow, "", |column, text| paint(i, column, text));
        return rows.iter().enumerate().map(shown).collect();
    }
    let rest: Vec<Vec<String>> = rows.iter().map(|row| row.iter().skip(1).cloned().collect()).collect();
    let widths = widths(&rest);
    let room = width.saturating_sub(BELOW.len());
    // narrower than that no terminal is that is read
    let narrow = narrowed(&widths, 0, room).unwrap_or(widths);
    let shown = |(i, (row, rest)): (usize, (&Vec<String>, &Vec<String>))| {
        let first = row.first().map_or_else(String::new, |first| paint(i, 0, first));
        format!("{first}\n{}", broken(rest, &narrow, BELOW, |column, text| paint(i, column + 1, text)))
    };
    rows.iter().zip(&rest).enumerate().map(shown).collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..count).map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0)).collect()
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
}

/// Widths that fit, those before `first` untouched; the widest give first. `None`: it cannot be.
fn narrowed(widths: &[usize], first: usize, room: usize) -> Option<Vec<usize>> {
    let mut narrow = widths.to_vec();
    while total(&narrow) > room {
        let widest = narrow.iter_mut().skip(first).max_by_key(|w| **w).filter(|w| **w > NARROWEST)?;
        *widest -= 1;
    }
    Some(narrow)
}

/// One row, its cells broken into as many lines as they need.
fn broken(row: &[String], widths: &[usize], indent: &str, paint: impl Fn(usize, &str) -> String) -> String {
    let cells: Vec<Vec<&str>> = row.iter().zip(widths).map(|(cell, width)| cut(cell, *width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    (0..height)
        .map(|i| {
            let mut line = indent.to_owned();
            for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
                let text = cell.get(i).copied().unwrap_or_default();
                if !text.is_empty() {
                    line.push_str(&paint(column, text));
                }
                line.push_str(&" ".repeat(width.saturating_sub(self::width(text)) + 2));
            }
            line.truncate(line.trim_end().len());
            line + "\n"
        })
        .collect()
}

/// Pieces of at most this many columns: ends at a blank, else after a slash or the like, else anywhere.
pub fn cut(cell: &str, width: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = cell;
    while self::width(rest) > width {
        let mut taken = 0;
        let (mut blank, mut mark, mut end) = (None, None, rest.len());
        for (i, c) in rest.char_indices() {
            let next = i + c.len_utf8();
            taken += if is_wide(c) { 2 } else { 1 };
            if c == ' ' && i > 0 {
                blank = Some(i);
            }
            if taken > width {
                end = i.max(1);
                break;
            }
            if matches!(c, '/' | ',' | ';') {
                mark = Some(next);
            }
        }
        let at = blank.or(mark).unwrap_or(end);
        let (piece, after) = rest.split_at_checked(at).filter(|(piece, _)| !piece.is_empty()).unwrap_or((rest, ""));
        pieces.push(piece.trim_end());
        rest = after.trim_start();
    }
    if pieces.is_empty() || !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
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

/// The beginning of a line, of at most this many columns. Colours take none, and are ended.
pub fn clipped(line: &str, width: usize) -> String {
    let (mut out, mut left, mut in_colour) = (String::new(), width, false);
    for c in line.chars() {
        let columns = match c {
            '\x1b' => {
                in_colour = true;
                0
            }
            _ if in_colour => {
                in_colour = c != 'm';
                0
            }
            c if is_wide(c) => 2,
            _ => 1,
        };
        if columns > left {
            // what is left of it is colours at most
            left = 0;
            continue;
        }
        left -= columns;
        out.push(c);
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
    fn a_table_fits_a_terminal_and_loses_nothing() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2f9e1b6c_77aa_4d5e_9c3b_0a1b2c3d4e5f.slice";
        let rows = [
            ["TARGET", "RSS", "LIMIT", "PPROF"].map(String::from).to_vec(),
            vec![
                "checkout".into(),
                "1.52GiB".into(),
                format!("2.00GiB (cgroup v2 {pod} memory.max)"),
                "http://127.0.0.1:6060/debug/pprof".into(),
            ],
            vec!["付款".into(), "none".into()],
        ];
        for width in [60, 80, 100, 500] {
            let text = table(&rows, Some(width));
            assert!(text.lines().all(|l| self::width(l) <= width && l.trim_end() == l), "{width}:\n{text}");
            let squeezed = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            assert_eq!(squeezed(&text), rows.iter().flatten().map(|cell| squeezed(cell)).sum::<usize>(), "{text}");
        }
        assert_eq!(table(&rows, None), columns(&rows));
        assert_eq!(table(&rows[2..], Some(80)), "付款  none\n");
    }

    #[test]
    fn what_names_a_row_stays_in_one_piece_with_the_rest_below_it() {
        let id = "checkout/20261123T081336Z-threshold-1.52GiB";
        let rows = [["ID", "TRIGGER", "CAUSE", "OUTCOME", "SIZE"], [id, "threshold", "goroutine_pileup", "complete", "1.20MiB"]];
        let text = table(&rows.map(|row| row.map(String::from).to_vec()), Some(60));
        assert_eq!(
            text,
            format!("ID\n    TRIGGER    CAUSE             OUTCOME   SIZE\n{id}\n    threshold  goroutine_pileup  complete  1.20MiB\n")
        );
    }

    #[test]
    fn a_clipped_line_keeps_its_colours_and_not_more_columns() {
        assert_eq!(clipped("ab\x1b[32mcd\x1b[0mef", 3), "ab\x1b[32mc\x1b[0m");
        assert_eq!(clipped("堆内存", 5), "堆内");
    }

    #[test]
    fn cells_are_cut_at_blanks_then_after_slashes_then_anywhere() {
        assert_eq!(cut("one two three", 8), ["one two", "three"]);
        assert_eq!(cut("/system.slice/checkout.service", 16), ["/system.slice/", "checkout.service"]);
        assert_eq!(cut("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(cut("内存不足", 5), ["内存", "不足"]);
        assert_eq!((cut("", 5), cut("x", 5), cut("ab ", 1)), (vec![""], vec!["x"], vec!["a", "b"]));
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
