//! What is said on stderr, whose reader may have stopped to read: a full pipe, a terminal that is held. Whoever speaks never waits for it; what
//! does not fit is counted, and the number said once there is room.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Bytes that wait for the reader.
const MAX_WAITING: usize = 1 << 20;
/// How long the end waits for what was said last.
const LAST_WORDS: Duration = Duration::from_secs(1);

enum Word {
    Text(Vec<u8>),
    /// Everything before this was written.
    Flush(Sender<()>),
}

/// Clones write to the same place, in the order in which they were given something.
#[derive(Clone)]
pub struct Outlet {
    /// `None`: there was no thread for it, and whoever speaks waits.
    words: Option<Sender<Word>>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

/// The one of this process's stderr.
pub fn stderr() -> Outlet {
    static STDERR: LazyLock<Outlet> = LazyLock::new(|| Outlet::to(io::stderr()));
    STDERR.clone()
}

impl Outlet {
    fn to(mut out: impl Write + Send + 'static) -> Outlet {
        let (words, given) = channel();
        let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (leaves, missed) = (waiting.clone(), lost.clone());
        let write = move || {
            for word in given {
                match word {
                    Word::Text(text) => {
                        // nobody reads it: nothing to tell
                        let _ = out.write_all(&text).and_then(|()| out.flush());
                        leaves.fetch_sub(text.len(), Ordering::Relaxed);
                    }
                    // who has given up does not hear it
                    Word::Flush(done) => drop(done.send(())),
                }
                let lost = missed.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(out, "memtrap: {lost} lines are missing here: nobody read them in time");
                }
            }
        };
        let spawned = std::thread::Builder::new().name("stderr".into()).spawn(write);
        Outlet { words: spawned.ok().map(|_| words), waiting, lost }
    }

    /// Waits until what was said so far is written, or the reader takes too long.
    pub fn flush_all(&self) {
        let (done, end) = channel();
        if let Some(words) = &self.words
            && words.send(Word::Flush(done)).is_ok()
        {
            let _ = end.recv_timeout(LAST_WORDS);
        }
    }
}

/// Each write is a whole line.
impl Write for Outlet {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let Some(words) = &self.words else { return io::stderr().write(text) };
        let before = self.waiting.fetch_add(text.len(), Ordering::Relaxed);
        if before > 0 && before + text.len() > MAX_WAITING {
            self.waiting.fetch_sub(text.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if words.send(Word::Text(text.to_vec())).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_reader_that_stops_holds_up_nobody_and_is_told_what_it_missed() {
        let (reader, pipe) = io::pipe().unwrap();
        let mut outlet = Outlet::to(pipe);
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        for _ in 0..2 * MAX_WAITING / line.len() {
            outlet.write_all(&line).unwrap();
        }
        // more than fits has been said, and here we are
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let missing = lines.find(|l| l.starts_with("memtrap: ")).unwrap();
        assert!(missing.ends_with(" lines are missing here: nobody read them in time"), "{missing}");
        outlet.write_all(b"again\n").unwrap();
        assert!(lines.any(|l| l == "again"));
    }

    #[test]
    fn the_end_waits_for_the_last_words() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut outlet = Outlet::to(pipe);
        outlet.write_all(b"goodbye\n").unwrap();
        outlet.flush_all();
        drop(outlet);
        let mut said = String::new();
        io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert_eq!(said, "goodbye\n");
    }
}
