//! The thread that hears what the kernel tells of cgroups.

use std::sync::Arc;

use crate::host::bell::Bells;
use crate::poll::{Command, Handles};

/// A thread that tells the watcher what the kernel tells of cgroups. It ends with this.
#[derive(Debug)]
pub(super) struct Listening(Option<Arc<Bells>>);

impl Listening {
    pub fn start(handles: &Handles) -> std::io::Result<Listening> {
        if let Some(bells) = handles.bells.clone() {
            let commands = handles.commands.clone();
            let tell = move |bell, rang| commands.send(Command::Rang(bell, rang)).is_ok();
            std::thread::Builder::new().name("bells".into()).spawn(move || bells.listen(tell))?;
        }
        Ok(Listening(handles.bells.clone()))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.iter().for_each(|bells| bells.end());
    }
}
