//! Where an ELF file has its build info: a section, or where there are no sections, one of the first segments of data.
//!
//! The layout is `object`'s; the headers are read one at a time, since its tables are read whole, however long they claim to be.

use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, PF_W, PF_X, PT_LOAD};
use object::pod::{Pod, bytes_of_slice_mut, from_bytes};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::BuildInfoError::{Damaged, NotElf};
use super::{BuildInfoError, Bytes};

/// What is written to before the program begins may have a segment of its own.
const MAX_DATA_SEGMENTS: usize = 3;
const MAX_SECTIONS: u64 = 16 << 10;
const NAME: &[u8] = b".go.buildinfo\0";

/// Offset and size of the parts of the file to search.
pub(super) fn places(file: &Bytes) -> Result<Vec<(u64, u64)>, BuildInfoError> {
    let mut ident = [0; 16];
    if file.fill(&mut ident, 0)? < ident.len() || !ident.starts_with(b"\x7fELF") {
        return Err(NotElf);
    }
    let endian = match ident[5] {
        1 => Endianness::Little,
        2 => Endianness::Big,
        _ => return Err(NotElf),
    };
    match ident[4] {
        1 => Headers::<FileHeader32<Endianness>>::read(file, endian)?.places(),
        2 => Headers::<FileHeader64<Endianness>>::read(file, endian)?.places(),
        _ => Err(NotElf),
    }
}

struct Headers<'a, H> {
    file: &'a Bytes<'a>,
    endian: Endianness,
    header: H,
}

impl<'a, H: FileHeader<Endian = Endianness>> Headers<'a, H> {
    fn read(file: &'a Bytes<'a>, endian: Endianness) -> Result<Headers<'a, H>, BuildInfoError> {
        Ok(Headers { file, endian, header: record(file, 0)? })
    }

    fn places(&self) -> Result<Vec<(u64, u64)>, BuildInfoError> {
        match self.section()? {
            Some(place) => Ok(vec![place]),
            None => self.data_segments(),
        }
    }

    fn section(&self) -> Result<Option<(u64, u64)>, BuildInfoError> {
        let e = self.endian;
        let mut names = u64::from(self.header.e_shstrndx(e).0);
        let mut count = u64::from(self.header.e_shnum(e));
        if count == 0 && self.header.e_shoff(e).into() != 0 {
            // more than the header's 16 bits can say: the first section has the true numbers
            let first = self.section_header(0)?;
            (count, names) = (first.sh_size(e).into(), u64::from(first.sh_link(e)));
        }
        if count > MAX_SECTIONS {
            return Err(Damaged("too many sections"));
        }
        if names >= count {
            return Ok(None);
        }
        let place = |header: &H::SectionHeader| (header.sh_offset(e).into(), header.sh_size(e).into());
        let (names, names_size): (u64, u64) = place(&self.section_header(names)?);
        let mut read = [0; NAME.len()];
        for n in 0..count {
            let header = self.section_header(n)?;
            let at = u64::from(header.sh_name(e));
            if at < names_size && self.file.fill(&mut read, names.saturating_add(at))? == read.len() && read == NAME {
                return Ok(Some(place(&header)));
            }
        }
        Ok(None)
    }

    fn data_segments(&self) -> Result<Vec<(u64, u64)>, BuildInfoError> {
        let e = self.endian;
        let (offset, entry) = (self.header.e_phoff(e).into(), self.header.e_phentsize(e));
        let mut found = Vec::new();
        for n in 0..u64::from(self.header.e_phnum(e)) {
            let header: H::ProgramHeader = self.entry(offset, entry, n)?;
            let is_data = header.p_type(e) == PT_LOAD && header.p_flags(e).0 & (PF_W.0 | PF_X.0) == PF_W.0;
            if is_data && found.len() < MAX_DATA_SEGMENTS {
                found.push((header.p_offset(e).into(), header.p_filesz(e).into()));
            }
        }
        Ok(found)
    }

    fn section_header(&self, n: u64) -> Result<H::SectionHeader, BuildInfoError> {
        self.entry(self.header.e_shoff(self.endian).into(), self.header.e_shentsize(self.endian), n)
    }

    fn entry<T: Pod>(&self, table: u64, size: u16, n: u64) -> Result<T, BuildInfoError> {
        if usize::from(size) < size_of::<T>() {
            return Err(Damaged("header entries are too small"));
        }
        record(self.file, table.saturating_add(n.saturating_mul(u64::from(size))))
    }
}

fn record<T: Pod>(file: &Bytes, at: u64) -> Result<T, BuildInfoError> {
    // of words, so that it lies as such a header must
    let mut words = vec![0u64; size_of::<T>().div_ceil(8)];
    let bytes = bytes_of_slice_mut(&mut words).get_mut(..size_of::<T>()).unwrap_or_default();
    if file.fill(bytes, at)? < size_of::<T>() {
        return Err(Damaged("it ends early"));
    }
    from_bytes(bytes).map(|(value, _)| *value).map_err(|()| Damaged("it ends early"))
}
