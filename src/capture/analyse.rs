//! The verdict and its report, asked of a process of its own: profiles come from outside, and what reads them may run out of memory or crash
//! without hurting the daemon. If it does, the bundle is as good as before and says that its verdict is missing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::child::{self, Done, Job};
use crate::aside::Threads;
use crate::bundle::Manifest;
use crate::lang::Lang;
use crate::report::Written;
use crate::text::one_line;

/// A large bundle takes a second or two.
const TIMEOUT: Duration = Duration::from_secs(60);

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
    let mut arguments: Vec<OsString> = ["analyze", "--lang", lang.name(), "--child-of"].map(OsString::from).into();
    arguments.extend([published.into(), partial.into()]);
    let job = Job { program, called: "the analysis", answer: "the report", arguments, timeout: TIMEOUT };
    let Done { status, output, complaint } = child::run(job, &input, threads).await?;
    if !status.success() {
        return Err(one_line(&format!("the analysis failed ({status}): {}", complaint.trim()), 400));
    }
    serde_json::from_slice(&output).map_err(|e| format!("the analysis answered with something else than a verdict: {e}"))
}
