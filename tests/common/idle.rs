//! A process that does nothing but be watched.

use std::process::{Child, Command, Stdio};

/// `sleep`, which any small threshold is below. Ends with its owner, and by itself after some minutes.
pub struct Idle {
    child: Child,
}

impl Idle {
    /// Starts one that [`Idle::selector`] of the same mark finds.
    pub fn start(mark: u32) -> Idle {
        Idle { child: Command::new("sleep").arg(argument(mark)).stdin(Stdio::null()).spawn().unwrap() }
    }

    /// All processes of this mark.
    pub fn selector(mark: u32) -> String {
        format!("{{ cmdline = '{}' }}", Idle::pattern(mark))
    }

    /// What [`Idle::selector`] matches their command lines with.
    pub fn pattern(mark: u32) -> String {
        format!("^sleep {}$", argument(mark).replace('.', r"\."))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ten minutes, and a fraction that only this mark of this test binary has.
fn argument(mark: u32) -> String {
    format!("600.{:07}{mark:05}", std::process::id())
}
