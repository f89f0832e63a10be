//! A process beside memtrap that puts `memory.high` back if memtrap cannot: it waits for the end of a pipe, which is memtrap's end, or for the hard deadline.
//!
//! It has a session of its own, heeds no request to stop, is locked in memory where it may be, and has everything open before it says that it is ready.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::HARD;
use super::high::HighFile;
use crate::clock::Mono;

/// The hidden command.
pub const COMMAND: &str = "guard-brake";
const READY: &[u8] = b"ready\n";
/// A program that was started before starts in some milliseconds.
const START: Duration = Duration::from_millis(1_500);
/// For it to see that there is nothing left to do.
const END: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// What it is told to guard.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    inode: u64,
    #[arg(long)]
    before: String,
    #[arg(long)]
    new: u64,
    /// Nanoseconds of CLOCK_MONOTONIC
    #[arg(long)]
    until: u64,
}

/// memtrap's side of it.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    /// Its end is the guard's sign.
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts it, and waits until it has everything open; or why it has not.
    pub fn start(program: &Path, dir: &Path, inode: u64, before: &str, new: u64) -> Result<Guard, String> {
        let until = Mono::now() + HARD;
        let numbers = [("--inode", inode), ("--new", new), ("--until", until.as_nanos())];
        let mut command = Command::new(program);
        command.arg(COMMAND).arg("--dir").arg(dir).args(["--before", before]);
        for (name, n) in numbers {
            command.arg(name).arg(n.to_string());
        }
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.map_err(|e| format!("{}: {e}", program.display()))?;
        let (pipe, said) = (child.stdin.take(), child.stdout.take());
        let guard = Guard { child, pipe };
        match said.is_some_and(is_ready) {
            true => Ok(guard),
            false => {
                guard.end();
                Err("it does not say that it is ready".into())
            }
        }
    }

    /// memtrap has no more need of it.
    pub fn end(self) {}
}

impl Drop for Guard {
    /// It looks once more, and goes.
    fn drop(&mut self) {
        drop(self.pipe.take());
        let until = Mono::now() + END;
        while Mono::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(mut said: impl AsFd + Read) -> bool {
    let mut text = [0u8; READY.len()];
    waits(&said, START) && said.read_exact(&mut text).is_ok() && text == READY
}

/// True if there is something to read, or its end, within this time.
fn waits(what: &impl AsFd, patience: Duration) -> bool {
    let until = Mono::now() + patience;
    loop {
        let left = until.since(Mono::now());
        let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(what, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// What makes the guard's process outlive memtrap's, as far as it may.
pub fn settle_in() {
    // one that leads a session already is as good
    let _ = rustix::process::setsid();
    // a host that is out of memory must not need some for this; where it may not be locked, it is small
    let _ = rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT);
}

/// The guard itself: until the end of `pipe`, or the deadline. True if it has put something back.
pub fn run(args: &Args, mut pipe: impl AsFd + Read, mut ready: impl Write) -> std::io::Result<bool> {
    let file = HighFile::open(&args.dir)?;
    if file.inode() != args.inode {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "it is another cgroup by now"));
    }
    ready.write_all(READY)?;
    ready.flush()?;
    let until = Mono::from_nanos(args.until);
    let mut byte = [0u8; 1];
    // nobody writes: what is read is the end
    while waits(&pipe, until.since(Mono::now())) && matches!(pipe.read(&mut byte), Ok(1)) {}
    file.put_back(args.new, &args.before)
}

#[cfg(test)]
impl Args {
    pub fn of(dir: &Path, inode: u64, before: &str, new: u64, until: Mono) -> Args {
        Args { dir: dir.into(), inode, before: before.into(), new, until: until.as_nanos() }
    }
}
