//! Which Go built an executable, from which module, with which settings: what `go version -m` prints.
//!
//! A bounded reader of the ELF file's `.go.buildinfo` that never holds more than the module text. Executables of Go 1.18 and
//! later; older ones store pointers and are only recognised.

mod elf;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const HEADER: usize = 32;
/// The linker aligns the header to this.
const ALIGN: u64 = 16;
/// How much of a data segment is searched where there are no section headers.
const MAX_SEARCH: u64 = 4 << 20;
const MAX_VERSION: u64 = 1 << 10;
/// The text has a line per dependency.
const MAX_MODINFO: u64 = 4 << 20;
/// The linker's frame around the module text.
const FRAME: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// `go1.27.3`
    pub go_version: String,
    /// Import path of the main package.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub module_version: Option<String>,
    /// `CGO_ENABLED`, `GOARCH`, `-race`, `vcs.revision` and the like.
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildInfoError {
    #[error("not an ELF executable")]
    NotElf,
    #[error("not a Go executable, or its build info was removed")]
    NotGo,
    #[error("built by a Go older than 1.18, whose build info format is not supported")]
    OldFormat,
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
    #[error("cannot read the executable")]
    Io(#[from] io::Error),
}

use BuildInfoError::Damaged;

/// Reads the build info of an executable, for instance of `/proc/PID/exe`.
pub fn read(file: &File) -> Result<BuildInfo, BuildInfoError> {
    read_from(&|buf: &mut [u8], at| file.read_at(buf, at))
}

/// As `pread`: may return fewer bytes, 0 at the end.
pub type ReadAt<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<usize>;

/// The same of what is no file. It asks for a few MiB at most, whatever the bytes say.
pub fn read_from(file: ReadAt) -> Result<BuildInfo, BuildInfoError> {
    let file = Bytes(file);
    let mut at = None;
    for (offset, size) in elf::places(&file)? {
        at = find_magic(&file, offset, size)?;
        if at.is_some() {
            break;
        }
    }
    let at = at.ok_or(BuildInfoError::NotGo)?;
    let header = file.exact(at, HEADER)?;
    // bit 1: the strings follow the header
    if header.get(15).is_none_or(|flags| flags & 2 == 0) {
        return Err(BuildInfoError::OldFormat);
    }
    let (version, next) = string(&file, at.saturating_add(HEADER as u64), MAX_VERSION)?;
    let (modinfo, _) = string(&file, next, MAX_MODINFO)?;
    let mut info = BuildInfo { go_version: String::from_utf8_lossy(&version).into_owned(), ..BuildInfo::default() };
    info.read_modinfo(&modinfo);
    Ok(info)
}

impl BuildInfo {
    /// Lines of tab-separated words between two frames of 16 bytes.
    fn read_modinfo(&mut self, framed: &[u8]) {
        let Some(text) = framed.len().checked_sub(FRAME).and_then(|end| framed.get(FRAME..end)) else { return };
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split('\t');
            match (words.next(), words.next()) {
                (Some("path"), Some(path)) => self.path = Some(path.to_owned()),
                (Some("mod"), Some(module)) => {
                    self.module = Some(module.to_owned());
                    self.module_version = words.next().filter(|v| !v.is_empty()).map(str::to_owned);
                }
                (Some("build"), Some(_)) => {
                    // a quoted value may hold a tab only as `\t`
                    let setting = line.split_once('\t').map_or("", |(_, rest)| rest);
                    if let Some((key, value)) = split_setting(setting) {
                        self.settings.insert(unquote(key), unquote(value));
                    }
                }
                _ => {}
            }
        }
    }
}

/// `key=value`; a key with odd characters is quoted.
fn split_setting(text: &str) -> Option<(&str, &str)> {
    let from = match text.strip_prefix(['"', '`']) {
        Some(rest) => rest.find(['"', '`'])? + 2,
        None => 0,
    };
    let at = from + text.get(from..)?.find('=')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Go's quoting, as far as build settings use it; anything else is left as written.
fn unquote(text: &str) -> String {
    if let Some(raw) = text.strip_prefix('`').and_then(|t| t.strip_suffix('`')) {
        return raw.to_owned();
    }
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else { return text.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some(quoted @ ('"' | '\\'))) => out.push(quoted),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Where in this range of the file the header begins, in steps of its alignment.
fn find_magic(file: &Bytes, offset: u64, size: u64) -> Result<Option<u64>, BuildInfoError> {
    let end = offset.saturating_add(size.min(MAX_SEARCH));
    let mut chunk = vec![0; 64 << 10];
    let mut at = offset;
    while at < end {
        let got = file.fill(&mut chunk, at)?;
        let found = chunk.get(..got).unwrap_or_default().chunks(ALIGN as usize).position(|head| head.starts_with(MAGIC));
        if let Some(n) = found {
            let place = at.saturating_add(n as u64 * ALIGN);
            return Ok((place < end).then_some(place));
        }
        if got < chunk.len() {
            break;
        }
        at = at.saturating_add(got as u64);
    }
    Ok(None)
}

/// A length as a varint, then that many bytes. Returns them and what follows.
fn string(file: &Bytes, at: u64, max: u64) -> Result<(Vec<u8>, u64), BuildInfoError> {
    let mut prefix = [0; 10];
    let got = file.fill(&mut prefix, at)?;
    let mut length = 0u64;
    for (n, byte) in prefix.iter().take(got).enumerate() {
        length |= u64::from(byte & 0x7f).checked_shl(7 * n as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            if length > max {
                return Err(Damaged("a build info string is longer than any real one"));
            }
            let start = at.saturating_add(n as u64 + 1);
            return Ok((file.exact(start, length as usize)?, start.saturating_add(length)));
        }
    }
    Err(Damaged("a build info string has no length"))
}

/// What is read, whatever it is.
struct Bytes<'a>(ReadAt<'a>);

impl Bytes<'_> {
    /// Exactly `len` bytes, which the caller has bounded.
    fn exact(&self, at: u64, len: usize) -> Result<Vec<u8>, BuildInfoError> {
        let mut bytes = vec![0; len];
        if self.fill(&mut bytes, at)? == len { Ok(bytes) } else { Err(Damaged("it ends early")) }
    }

    fn fill(&self, buf: &mut [u8], at: u64) -> Result<usize, BuildInfoError> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            // an offset beyond what a file can have is beyond its end
            let Some(from) = at.checked_add(filled as u64).filter(|from| *from <= i64::MAX as u64) else { break };
            match (self.0)(rest, from) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODINFO: &str = "path\texample.org/shop/cmd/checkout\nmod\texample.org/shop\tv1.2.3\th1:abc=\n\
                           dep\texample.org/dep\tv0.1.0\th1:def=\nbuild\t-buildmode=exe\nbuild\tCGO_ENABLED=1\nbuild\tGOARCH=amd64\n\
                           build\t-ldflags=\"-s -X 'main.v=a\\tb'\"\nbuild\t\"odd=key\"=x=y\nbuild\tvcs.revision=0123abcd\n";

    fn varint(mut n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    fn build_info(version: &str, modinfo: &str) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([8, 2]);
        out.resize(HEADER, 0);
        let framed = [&[0x30; FRAME][..], modinfo.as_bytes(), &[0xf9; FRAME]].concat();
        for text in [version.as_bytes(), &framed] {
            out.extend(varint(text.len()));
            out.extend(text);
        }
        out
    }

    struct Shape {
        wide: bool,
        little: bool,
        sections: bool,
    }

    /// An ELF file whose data segment and `.go.buildinfo` hold `data`.
    fn elf(shape: &Shape, data: &[u8]) -> Vec<u8> {
        let Shape { wide, little, sections } = *shape;
        let put = |out: &mut Vec<u8>, value: u64, len: usize| {
            let bytes = value.to_le_bytes();
            let bytes = &bytes[..len];
            if little { out.extend(bytes) } else { out.extend(bytes.iter().rev()) }
        };
        let w = if wide { 8 } else { 4 };
        let (ehsize, phsize, shsize): (usize, usize, usize) = if wide { (64, 56, 64) } else { (52, 32, 40) };
        let names = b"\0.shstrtab\0.go.buildinfo\0";
        let data_at = (ehsize + phsize).div_ceil(16) * 16;
        let names_at = data_at + data.len();
        let sections_at = names_at + names.len();
        let mut out = b"\x7fELF".to_vec();
        out.extend([if wide { 2 } else { 1 }, if little { 1 } else { 2 }, 1]);
        out.resize(16, 0);
        for (value, len) in [(2, 2), (62, 2), (1, 4), (0, w), (ehsize, w), (if sections { sections_at } else { 0 }, w), (0, 4)] {
            put(&mut out, value as u64, len);
        }
        for value in [ehsize, phsize, 1, shsize, if sections { 3 } else { 0 }, usize::from(sections)] {
            put(&mut out, value as u64, 2);
        }
        assert_eq!(out.len(), ehsize);
        let (flags, place) = ((6, 4), [(data_at, w), (0, w), (0, w), (data.len(), w), (data.len(), w)]);
        put(&mut out, 1, 4);
        if wide {
            put(&mut out, flags.0, flags.1);
        }
        place.iter().for_each(|(value, len)| put(&mut out, *value as u64, *len));
        if !wide {
            put(&mut out, flags.0, flags.1);
        }
        out.resize(data_at, 0);
        out.extend(data);
        out.extend(names);
        for (name, at, size) in [(0, 0, 0), (1, names_at, names.len()), (11, data_at, data.len())] {
            let start = out.len();
            for (value, len) in [(name, 4), (1, 4), (0, w), (0, w), (at, w), (size, w)] {
                put(&mut out, value as u64, len);
            }
            out.resize(start + shsize, 0);
        }
        out
    }

    const COMMON: Shape = Shape { wide: true, little: true, sections: true };

    /// A small executable that claims to be built by this Go.
    pub(crate) fn go_executable(version: &str) -> Vec<u8> {
        elf(&COMMON, &build_info(version, MODINFO))
    }

    fn read_bytes(bytes: &[u8]) -> Result<BuildInfo, BuildInfoError> {
        read_from(&|buf: &mut [u8], at| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        })
    }

    #[test]
    fn version_module_and_settings_are_read_whatever_the_machine() {
        for wide in [true, false] {
            for little in [true, false] {
                for sections in [true, false] {
                    // without sections the header is searched for, behind other data
                    let before = if sections { 0 } else { 70_000 / 16 * 16 };
                    let data = [vec![0xff; before], build_info("go1.27.3", MODINFO)].concat();
                    let info = read_bytes(&elf(&Shape { wide, little, sections }, &data)).unwrap();
                    assert_eq!(info.go_version, "go1.27.3");
                    assert_eq!(info.path.as_deref(), Some("example.org/shop/cmd/checkout"));
                    assert_eq!((info.module.as_deref(), info.module_version.as_deref()), (Some("example.org/shop"), Some("v1.2.3")));
                    assert_eq!(info.settings["CGO_ENABLED"], "1");
                    assert_eq!(info.settings["vcs.revision"], "0123abcd");
                    assert_eq!(info.settings["-ldflags"], "-s -X 'main.v=a\tb'");
                    assert_eq!(info.settings["odd=key"], "x=y");
                    assert_eq!(info.settings.len(), 6);
                }
            }
        }
    }

    #[test]
    fn a_program_without_module_information_still_has_its_version() {
        let mut data = MAGIC.to_vec();
        data.extend([8, 2]);
        data.resize(HEADER, 0);
        data.extend(b"\x08go1.27.3\x00");
        let info = read_bytes(&elf(&COMMON, &data)).unwrap();
        assert_eq!(info, BuildInfo { go_version: "go1.27.3".into(), ..BuildInfo::default() });
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        assert!(matches!(read_bytes(b""), Err(BuildInfoError::NotElf)));
        assert!(matches!(read_bytes(b"#!/bin/sh\necho a script\n"), Err(BuildInfoError::NotElf)));
        assert!(matches!(read_bytes(&elf(&COMMON, &[0; 64])), Err(BuildInfoError::NotGo)));
        let mut old = build_info("go1.17", "");
        old[15] = 0;
        assert!(matches!(read_bytes(&elf(&COMMON, &old)), Err(BuildInfoError::OldFormat)));
        let own = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(read(&own), Err(BuildInfoError::NotGo)));
    }

    #[test]
    fn lengths_beyond_the_file_or_all_reason_are_damage() {
        for length in [&b"\x7f"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[0xff; 12], b""] {
            let mut data = MAGIC.to_vec();
            data.extend([8, 2]);
            data.resize(HEADER, 0);
            data.extend(length);
            // nothing behind it to run into
            let mut file = elf(&Shape { sections: false, ..COMMON }, &data);
            file.truncate(128 + data.len());
            let found = read_bytes(&file);
            assert!(matches!(found, Err(Damaged(_))), "{length:?}: {found:?}");
        }
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error_and_not_a_panic() {
        let whole = go_executable("go1.27.3");
        for end in 0..whole.len() {
            assert!(read_bytes(&whole[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..700, any::<u8>()), 1..8), wide: bool, little: bool, sections: bool) {
            let mut bytes = elf(&Shape { wide, little, sections }, &build_info("go1.27.3", MODINFO));
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            let _ = read_bytes(&bytes);
        }
    }
}
