//! Core files as an input of `analyze`, `top` and `holders`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Failure;
use crate::clock;
use crate::disk::open_at_once;
use crate::goruntime::corefile::{CoreFile, Executable, is_elf};
use crate::goruntime::image::Image;
use crate::goruntime::{Program, Refused};

/// What systemd-coredump and others make of a core.
const COMPRESSED: [(&[u8], &str, &str); 3] =
    [(b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"), (b"\xfd7zXZ\0", "xz", "xz -dk"), (b"\x04\x22\x4d\x18", "lz4", "lz4 -d")];

/// A core file that can be read, and when it was written.
pub struct Core {
    pub program: Program<CoreFile>,
    pub taken: SystemTime,
}

/// Whether a path is of an ELF file, to be read as a core. A compressed one is an error that says what to do.
pub fn is_core(path: &Path) -> Result<bool, Failure> {
    let mut head = Vec::new();
    if !path.is_file() || File::open(path).and_then(|file| file.take(8).read_to_end(&mut head)).is_err() {
        return Ok(false);
    }
    match COMPRESSED.iter().find(|(magic, ..)| head.starts_with(magic)) {
        Some((_, name, command)) => Err(Failure::job(format_args!(
            "{} is compressed ({name}): decompress it first, with `{command}` or, of systemd, `coredumpctl dump PID -o core`",
            path.display()
        ))),
        None => Ok(is_elf(&head)),
    }
}

/// Opens a core with its executable: `exe`, else the one that the core names, else what the core itself has of the program.
pub fn open(path: &Path, exe: Option<&Path>) -> Result<Core, Failure> {
    let refused = |why: Refused| Failure::job(format_args!("{}: {why}", path.display()));
    let file = File::open(path)?;
    let taken = file.metadata()?.modified().unwrap_or_else(|_| clock::wall_now());
    let mut core = CoreFile::parse(Box::new(file)).map_err(refused)?;
    let image = match exe {
        Some(exe) => opened(exe).and_then(|exe| core.complete(exe)),
        None => completed(&mut core),
    };
    let program = image.and_then(|image| Program::of_core(core, image)).map_err(refused)?;
    Ok(Core { program, taken })
}

/// With the executable that it names, or with what it has itself.
fn completed(core: &mut CoreFile) -> Result<Image, Refused> {
    let Some(named) = core.executable().map(Path::to_owned) else { return core.image() };
    let why = match opened(&named).and_then(|exe| core.complete(exe)) {
        Ok(image) => return Ok(image),
        Err(why) => why,
    };
    core.image().map_err(|alone| Refused::new(format!("{alone}; its own, {}, is of no use here: {why}", named.display())))
}

/// The path may be a core's word: nothing that would wait or do something on being opened.
fn opened(path: &Path) -> Result<Executable, Refused> {
    let cannot = |why: &dyn std::fmt::Display| Refused::new(format!("{} cannot be read: {why}", path.display()));
    let file = open_at_once(path).map_err(|e| cannot(&e))?;
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(Executable { file, path: PathBuf::from(path) }),
        Ok(_) => Err(cannot(&"it is no file")),
        Err(e) => Err(cannot(&e)),
    }
}
