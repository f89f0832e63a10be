//! The verdict and its report, asked of a process of its own: profiles come from outside, and what reads them may run out of memory or crash
//! without hurting the daemon. If it does, the bundle is as good as before and says that its verdict is missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::aside::Threads;
use crate::bundle::Manifest;
use crate::clock::human;
use crate::lang::Lang;
use crate::report::Written;
use crate::text::one_line;
use crate::units::ByteSize;

/// A large bundle takes a second or two.
const TIMEOUT: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 16 << 20;
const MAX_ERROR: u64 = 4 << 10;

/// Runs `program analyze` on a bundle that is still at `partial` and will be at `published`. The error is a sentence.
///
/// If the future is dropped, the process is killed; nothing is written anywhere.
pub(super) async fn ask(
    program: &Path,
    threads: &Threads,
    partial: PathBuf,
    published: PathBuf,
    manifest: &Manifest,
    lang: Lang,
) -> Result<Written, String> {
    let input = serde_json::to_vec(manifest).map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command
        .arg0("memtrap")
        .args(["analyze", "--lang", lang.name(), "--child-of"])
        .args([published, partial])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // its file may lie on a disk that hangs
    let runtime = tokio::runtime::Handle::current();
    let start = move || {
        let _inside = runtime.enter();
        command.spawn()
    };
    let unstarted = |why: &dyn std::fmt::Display| format!("the analysis could not be started: {why}");
    let mut child = threads.run(START, start).await.map_err(|e| unstarted(&e))?.map_err(|e| unstarted(&e))?;
    let Ok(done) = tokio::time::timeout(TIMEOUT, converse(&mut child, &input)).await else {
        return Err(format!("the analysis was ended after {}", human(TIMEOUT)));
    };
    let (output, complaint) = done.map_err(|e| format!("talking to the analysis failed: {e}"))?;
    if output.len() as u64 >= MAX_OUTPUT {
        return Err(format!("the report is larger than {}", ByteSize(MAX_OUTPUT)));
    }
    let status = child.wait().await.map_err(|e| format!("the analysis cannot be waited for: {e}"))?;
    if !status.success() {
        return Err(one_line(&format!("the analysis failed ({status}): {}", complaint.trim()), 400));
    }
    serde_json::from_slice(&output).map_err(|e| format!("the analysis answered with something else than a verdict: {e}"))
}

/// Writes and reads at once, so that neither side waits for the other with a full pipe.
pub(super) async fn converse(child: &mut Child, input: &[u8]) -> std::io::Result<(Vec<u8>, String)> {
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
