//! Lines of a text from outside: bounded in memory, whatever the text.

use std::io::{self, BufRead};

/// What is kept of a line. The kernel's own longest are paths of 4 KiB; their first part is enough to tell what they are.
const MAX_LINE: usize = 1 << 10;

pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Lines<R> {
        Lines { input, line: Vec::new() }
    }

    /// The next line without its end, cut to [`MAX_LINE`]; a last line without a line feed is a fragment and not given.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let room = MAX_LINE.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(part.get(..room).unwrap_or_default());
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_costs_no_memory() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\nsecond\nfragment");
        let mut lines = Lines::new(text.as_slice());
        assert_eq!(lines.next().unwrap().map(<[u8]>::len), Some(MAX_LINE));
        assert_eq!(lines.next().unwrap(), Some(b"second".as_slice()));
        assert_eq!(lines.next().unwrap(), None);
        assert!(lines.line.capacity() <= 2 * MAX_LINE);
    }
}
