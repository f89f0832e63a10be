//! Files of secrets: named by a path, or by the name of a credential that systemd hands to the unit.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::aside::may_block;
use crate::disk::open_at_once;

/// How a configuration names a credential instead of a file: `credential:NAME`.
pub const PREFIX: &str = "credential:";

/// Whether systemd takes it as the name of a credential.
pub fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0'])
}

/// Opens the file of a secret: of `credential:NAME` in the directory that systemd made for this process, of any other path there.
pub fn open_secret(file: &Path) -> io::Result<File> {
    may_block();
    let path = in_credentials(file, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))?;
    open_at_once(&path)
}

fn in_credentials<'f>(file: &'f Path, directory: Option<&Path>) -> io::Result<Cow<'f, Path>> {
    let Some(name) = file.to_str().and_then(|text| text.strip_prefix(PREFIX)) else { return Ok(Cow::Borrowed(file)) };
    let none = "systemd hands no credentials to this process: memtrap's unit needs LoadCredential=, and a command in a terminal the path of the file";
    directory.map(|dir| Cow::Owned(dir.join(name))).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, none))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_of_the_units_own_directory() {
        let dir = Path::new("/run/credentials/memtrap.service");
        assert_eq!(in_credentials(Path::new("credential:search"), Some(dir)).unwrap(), dir.join("search"));
        assert_eq!(in_credentials(Path::new("/etc/x"), Some(dir)).unwrap(), Path::new("/etc/x"));
        let why = in_credentials(Path::new("credential:search"), None).unwrap_err().to_string();
        assert!(why.contains("LoadCredential="), "{why}");
        for name in ["", ".", "..", "a/b", "../x", "a\0b"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
