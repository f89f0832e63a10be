//! Where each Go keeps the fields that memtrap reads: one column per minor release.
//!
//! The table is what each toolchain's own DWARF says (`scripts/go-layouts`), and a test compares it with the toolchains. Patch releases move
//! fields of `runtime.m` only, which is not in it.

use std::collections::HashMap;

use super::Refused;

const TABLE: &str = include_str!("layouts.tsv");

/// A field of one of the runtime's structures, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub offset: u32,
    pub size: u32,
}

/// All fields of one release.
#[derive(Debug)]
pub struct Layout {
    /// The 27 of Go 1.27.
    pub minor: u32,
    /// It was made for another release than it is used for.
    pub is_guess: bool,
    fields: HashMap<(&'static str, &'static str), Field>,
}

impl Layout {
    /// The layout of a release as build info names it: `go1.27.3`, `go1.25.5 X:greenteagc`, `go1.24.3 (Red Hat 1.24.3-1.el9)`.
    /// A newer Go than the table knows is tried with the newest column; one between two columns is refused.
    pub fn of(go_version: &str) -> Result<Layout, Refused> {
        let unknown = || Refused::new(format!("{go_version} is no release of Go whose layout is known"));
        let minor = minor(go_version).ok_or_else(unknown)?;
        let mut lines = TABLE.lines();
        let columns: Vec<u32> = lines.next().into_iter().flat_map(|head| head.split('\t').skip(2)).filter_map(|c| c.parse().ok()).collect();
        let newest = columns.last().copied().ok_or_else(unknown)?;
        let used = if minor > newest { newest } else { minor };
        let column = columns.iter().position(|c| *c == used).ok_or_else(unknown)?;
        let mut fields = HashMap::new();
        for line in lines {
            let mut cells = line.split('\t');
            if let (Some(of), Some(field), Some(place)) = (cells.next(), cells.next(), cells.nth(column))
                && let Some(place) = parse(place)
            {
                // the first of several names is the one of today
                fields.insert((first_name(of), first_name(field)), place);
            }
        }
        Ok(Layout { minor, is_guess: used != minor, fields })
    }

    /// Where a field is; refused where this release has none.
    pub fn field(&self, of: &'static str, field: &'static str) -> Result<Field, Refused> {
        self.find(of, field).ok_or_else(|| Refused::new(format!("Go 1.{} has no {of}.{field}", self.minor)))
    }

    pub fn find(&self, of: &'static str, field: &'static str) -> Option<Field> {
        self.fields.get(&(of, field)).copied()
    }

    pub fn size(&self, of: &'static str) -> Result<u32, Refused> {
        self.field(of, "(size)").map(|f| f.size)
    }
}

fn first_name(names: &'static str) -> &'static str {
    names.split('|').next().unwrap_or(names)
}

/// `OFFSET:SIZE`, or a structure's size alone.
fn parse(place: &str) -> Option<Field> {
    match place.split_once(':') {
        Some((offset, size)) => Some(Field { offset: offset.parse().ok()?, size: size.parse().ok()? }),
        None => Some(Field { offset: 0, size: place.parse().ok()? }),
    }
}

/// The 27 of `go1.27.3`.
fn minor(go_version: &str) -> Option<u32> {
    let rest = go_version.strip_prefix("go1.")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| rest.get(..end).unwrap_or_default());
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_known_by_its_minor_number() {
        for (version, minor) in [("go1.27.3", 27), ("go1.25.5 X:greenteagc", 25), ("go1.21", 21), ("go1.24rc1", 24)] {
            let layout = Layout::of(version).unwrap();
            assert_eq!((layout.minor, layout.is_guess), (minor, false), "{version}");
        }
    }

    #[test]
    fn a_newer_go_is_tried_with_the_newest_layout_and_an_older_one_refused() {
        let tomorrow = Layout::of("go1.99.1").unwrap();
        assert!(tomorrow.is_guess);
        assert_eq!(tomorrow.size("runtime.g").unwrap(), Layout::of("go1.27.3").unwrap().size("runtime.g").unwrap());
        for version in ["go1.18.4", "go1.4", "devel +1a2b3c", ""] {
            assert!(Layout::of(version).is_err(), "{version}");
        }
    }

    #[test]
    fn what_a_release_does_not_have_is_refused_by_name() {
        let layout = Layout::of("go1.27.0").unwrap();
        let refused = layout.field("runtime.memRecordCycle", "alloc_bytes").unwrap_err();
        assert_eq!(refused.to_string(), "Go 1.27 has no runtime.memRecordCycle.alloc_bytes");
    }
}
