//! A process of memtrap's own that does what may run out of memory or time: started, spoken to, heard to its end.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::aside::Threads;
use crate::clock::human;
use crate::units::ByteSize;

const START: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 16 << 20;
const MAX_ERROR: u64 = 4 << 10;

/// What is run, and what sentences call it.
pub(super) struct Job<'a> {
    pub program: &'a Path,
    pub called: &'static str,
    pub answer: &'static str,
    pub arguments: Vec<OsString>,
    pub timeout: Duration,
}

/// How it ended, and what it printed: no more than [`MAX_OUTPUT`].
pub(super) struct Done {
    pub status: ExitStatus,
    pub output: Vec<u8>,
    pub complaint: String,
}

/// Runs it with this input. The error is a sentence. If the future is dropped, the child is killed.
pub(super) async fn run(job: Job<'_>, input: &[u8], threads: &Threads) -> Result<Done, String> {
    let Job { program, called, answer, arguments, timeout } = job;
    let mut command = Command::new(program);
    command.arg0("memtrap").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // its file may lie on a disk that hangs
    let runtime = tokio::runtime::Handle::current();
    let start = move || {
        let _inside = runtime.enter();
        command.spawn()
    };
    let unstarted = |why: &dyn std::fmt::Display| format!("{called} could not be started: {why}");
    let mut child = threads.run(START, start).await.map_err(|e| unstarted(&e))?.map_err(|e| unstarted(&e))?;
    let Ok(done) = tokio::time::timeout(timeout, converse(&mut child, input)).await else {
        return Err(format!("{called} was ended after {}", human(timeout)));
    };
    let (output, complaint) = done.map_err(|e| format!("talking to {called} failed: {e}"))?;
    if output.len() as u64 >= MAX_OUTPUT {
        return Err(format!("{answer} is larger than {}", ByteSize(MAX_OUTPUT)));
    }
    let status = child.wait().await.map_err(|e| format!("{called} cannot be waited for: {e}"))?;
    Ok(Done { status, output, complaint })
}

/// Writes and reads at once, so that neither side waits for the other with a full pipe.
async fn converse(child: &mut Child, input: &[u8]) -> std::io::Result<(Vec<u8>, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // it may have failed before it read all: its own words tell more than a broken pipe
            let _ = stdin.write_all(input).await;
        }
    };
    let mut output = Vec::new();
    let mut complaint = Vec::new();
    let read = async {
        match stdout {
            Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut output).await,
            None => Ok(0),
        }
    };
    let listen = async {
        match stderr {
            Some(stderr) => stderr.take(MAX_ERROR).read_to_end(&mut complaint).await,
            None => Ok(0),
        }
    };
    let ((), read, listened) = tokio::join!(write, read, listen);
    read?;
    listened?;
    Ok((output, String::from_utf8_lossy(&complaint).into_owned()))
}
