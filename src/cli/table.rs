//! Columns of text.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_space() {
        let rows = [vec!["a".into(), "rss".into()], vec!["checkout".into(), "1.5GiB".into()], vec!["é".into()]];
        assert_eq!(columns(&rows), "a         rss\ncheckout  1.5GiB\né\n");
    }
}
