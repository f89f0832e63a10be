//! The function table (pclntab): which function an address is in, with its inlined calls, files and lines.
//!
//! The format is that of `cmd/link/internal/ld/pcln.go` and `runtime/symtab.go`, Go 1.19 to 1.27.

use super::Refused;
use super::layout::{Field, Layout};
use super::memory::Reader;
use super::module::{Module, Table};

/// Real ones have some hundred thousand.
const MAX_FUNCTIONS: u64 = 8 << 20;
/// Generic names are the longest.
const MAX_NAME: usize = 4 << 10;
/// Steps of one table of values by pc; a function of 1 MB of code has some 100,000.
const MAX_STEPS: usize = 1 << 20;
/// The compiler's own bound on how deep it inlines is far lower.
const MAX_INLINED: usize = 100;

/// `PCDATA_InlTreeIndex` and `FUNCDATA_InlTree` of `internal/abi/symtab.go`.
const INLINE_INDEX: u64 = 2;
const INLINE_TREE: u64 = 3;

/// All functions of a module.
pub struct Functions<'r> {
    memory: &'r Reader<'r>,
    module: &'r Module,
    count: u64,
    at: At,
}

/// Offsets of `runtime._func` and `runtime.inlinedCall`.
struct At {
    size: u64,
    name: Field,
    pcsp: Field,
    pcfile: Field,
    pcln: Field,
    npcdata: Field,
    compilation_unit: Field,
    func_id: Field,
    flag: Field,
    nfuncdata: Field,
    inlined_size: u64,
    inlined_name: Field,
    inlined_func_id: Field,
    parent_pc: Field,
}

/// One function, as it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    pub entry: u64,
    pub end: u64,
    record: u64,
}

/// One call of a stack, inlined or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub function: String,
    /// Empty where it is not known.
    pub file: String,
    pub line: u32,
    /// `FuncID` of `internal/abi/symtab.go`: wrappers are not shown.
    pub func_id: u8,
}

impl<'r> Functions<'r> {
    pub fn new(memory: &'r Reader<'r>, module: &'r Module, layout: &Layout) -> Result<Functions<'r>, Refused> {
        const FUNC: &str = "runtime._func";
        const INLINED: &str = "runtime.inlinedCall";
        let at = At {
            size: layout.size(FUNC)?.into(),
            name: layout.field(FUNC, "nameOff")?,
            pcsp: layout.field(FUNC, "pcsp")?,
            pcfile: layout.field(FUNC, "pcfile")?,
            pcln: layout.field(FUNC, "pcln")?,
            npcdata: layout.field(FUNC, "npcdata")?,
            compilation_unit: layout.field(FUNC, "cuOffset")?,
            func_id: layout.field(FUNC, "funcID")?,
            flag: layout.field(FUNC, "flag")?,
            nfuncdata: layout.field(FUNC, "nfuncdata")?,
            inlined_size: layout.size(INLINED)?.into(),
            inlined_name: layout.field(INLINED, "nameOff")?,
            inlined_func_id: layout.field(INLINED, "funcID")?,
            parent_pc: layout.field(INLINED, "parentPc")?,
        };
        let count = module.ftab.len.saturating_sub(1);
        if count == 0 || count > MAX_FUNCTIONS {
            return Err(Refused::new(format!("its function table has {} entries", module.ftab.len)));
        }
        Ok(Functions { memory, module, count, at })
    }

    /// In the order of their addresses.
    pub fn all(&self) -> impl Iterator<Item = Result<Function, Refused>> {
        (0..self.count).map(|i| self.function(i))
    }

    /// The function that holds this address.
    pub fn find(&self, pc: u64) -> Result<Option<Function>, Refused> {
        if !self.module.text.contains(pc) {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= pc { low = middle + 1 } else { high = middle }
        }
        match low.checked_sub(1) {
            Some(i) => self.function(i).map(|f| Some(f).filter(|f| pc < f.end)),
            None => Ok(None),
        }
    }

    fn entry(&self, i: u64) -> Result<u64, Refused> {
        Ok(self.module.text.start.wrapping_add(self.u32_of(self.module.ftab, i.saturating_mul(8))?.into()))
    }

    fn function(&self, i: u64) -> Result<Function, Refused> {
        let record = u64::from(self.u32_of(self.module.ftab, i.saturating_mul(8) + 4)?);
        Ok(Function { entry: self.entry(i)?, end: self.entry(i + 1)?, record })
    }

    fn u32_of(&self, table: Table, offset: u64) -> Result<u32, Refused> {
        self.memory.constant_u32(table.address.wrapping_add(offset))
    }

    fn field(&self, function: &Function, field: Field) -> Result<u64, Refused> {
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..field.size.min(8) as usize).unwrap_or_default();
        self.memory.constant(self.module.pclntable.address.wrapping_add(function.record).wrapping_add(field.offset.into()), bytes)?;
        Ok(bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// The name as the linker wrote it, such as `main.(*Cache).Put`.
    pub fn name(&self, function: &Function) -> Result<String, Refused> {
        self.string(self.module.funcnametab, self.field(function, self.at.name)?)
    }

    pub fn func_id(&self, function: &Function) -> Result<u8, Refused> {
        Ok(self.field(function, self.at.func_id)? as u8)
    }

    /// `abi.FuncFlag` of `internal/abi/symtab.go`.
    pub fn flag(&self, function: &Function) -> Result<u8, Refused> {
        Ok(self.field(function, self.at.flag)? as u8)
    }

    fn string(&self, table: Table, offset: u64) -> Result<String, Refused> {
        if offset >= table.len {
            return Err(Refused::new("a name outside of the table of names"));
        }
        let mut bytes = Vec::new();
        while bytes.len() < MAX_NAME {
            let mut piece = [0; 64];
            let at = offset + bytes.len() as u64;
            let piece = piece.get_mut(..table.len.saturating_sub(at).min(64) as usize).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            self.memory.constant(table.address.wrapping_add(at), piece)?;
            match piece.iter().position(|b| *b == 0) {
                Some(end) => {
                    bytes.extend_from_slice(piece.get(..end).unwrap_or_default());
                    break;
                }
                None => bytes.extend_from_slice(piece),
            }
        }
        // names go into texts whose lines mean something
        Ok(String::from_utf8_lossy(&bytes).replace(char::is_control, "\u{fffd}"))
    }

    /// What a table of values by pc says at `pc`; `None` beyond its end.
    fn value_at(&self, offset: u64, function: &Function, pc: u64) -> Result<Option<i32>, Refused> {
        if offset == 0 {
            return Ok(None);
        }
        let mut bytes = Varints { memory: self.memory, at: self.module.pctab.address.wrapping_add(offset) };
        let (mut value, mut at) = (-1i32, function.entry);
        for step in 0..MAX_STEPS {
            let delta = bytes.next()?;
            if delta == 0 && step > 0 {
                return Ok(None);
            }
            // zigzag
            value = value.wrapping_add(if delta & 1 == 1 { !(delta >> 1) } else { delta >> 1 } as i32);
            at = at.wrapping_add(bytes.next()?.into());
            if pc < at {
                return Ok(Some(value));
            }
        }
        Err(Refused::new("a table of the function table does not end"))
    }

    /// How far below its frame the stack pointer is at `pc`, in bytes.
    pub fn frame_size(&self, function: &Function, pc: u64) -> Result<Option<u64>, Refused> {
        let value = self.value_at(self.field(function, self.at.pcsp)?, function, pc)?;
        Ok(value.and_then(|v| u64::try_from(v).ok()))
    }

    /// The calls at an instruction, the innermost first; empty if no function holds it. Of a return address, pass the one before.
    pub fn frames(&self, pc: u64) -> Result<Vec<Frame>, Refused> {
        let Some(function) = self.find(pc)? else { return Ok(Vec::new()) };
        let tree = self.inline_tree(&function)?;
        let mut frames = Vec::new();
        let mut pc = pc;
        while let Some((tree, indexes)) = tree
            && frames.len() < MAX_INLINED
            && let Some(index) = self.value_at(indexes, &function, pc)?
            && let Ok(index) = u64::try_from(index)
        {
            let call = self.module.gofunc.wrapping_add(tree).wrapping_add(index * self.at.inlined_size);
            let word = |field: Field| {
                let mut bytes = [0; 4];
                let bytes = bytes.get_mut(..field.size.min(4) as usize).unwrap_or_default();
                self.memory.constant(call.wrapping_add(field.offset.into()), bytes)?;
                Ok::<_, Refused>(bytes.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte)))
            };
            let function_name = self.string(self.module.funcnametab, word(self.at.inlined_name)?.into())?;
            let (file, line) = self.position(&function, pc)?;
            frames.push(Frame { function: function_name, file, line, func_id: word(self.at.inlined_func_id)? as u8 });
            pc = function.entry.wrapping_add(word(self.at.parent_pc)?.into());
        }
        let (file, line) = self.position(&function, pc)?;
        frames.push(Frame { function: self.name(&function)?, file, line, func_id: self.func_id(&function)? });
        Ok(frames)
    }

    /// Where the inlining tree of a function is, and the table that points into it; `None` where nothing is inlined.
    fn inline_tree(&self, function: &Function) -> Result<Option<(u64, u64)>, Refused> {
        Ok(self.funcdata_offset(function, INLINE_TREE)?.zip(self.pcdata_table(function, INLINE_INDEX)?))
    }

    fn pcdata_table(&self, function: &Function, index: u64) -> Result<Option<u64>, Refused> {
        if index >= self.field(function, self.at.npcdata)? {
            return Ok(None);
        }
        let table = self.u32_of(self.module.pclntable, function.record + self.at.size + 4 * index)?;
        Ok((table != 0).then_some(table.into()))
    }

    fn funcdata_offset(&self, function: &Function, index: u64) -> Result<Option<u64>, Refused> {
        if index >= self.field(function, self.at.nfuncdata)? {
            return Ok(None);
        }
        let npcdata = self.field(function, self.at.npcdata)?;
        let offset = self.u32_of(self.module.pclntable, function.record + self.at.size + 4 * (npcdata + index))?;
        Ok((offset != u32::MAX).then_some(offset.into()))
    }

    /// A value of `PCDATA_…` at an instruction; `None` where the function has no such table.
    pub fn pcdata(&self, function: &Function, index: u64, pc: u64) -> Result<Option<i32>, Refused> {
        match self.pcdata_table(function, index)? {
            Some(table) => self.value_at(table, function, pc),
            None => Ok(None),
        }
    }

    /// The address of `FUNCDATA_…` of a function, where it has it.
    pub fn funcdata(&self, function: &Function, index: u64) -> Result<Option<u64>, Refused> {
        Ok(self.funcdata_offset(function, index)?.map(|offset| self.module.gofunc.wrapping_add(offset)))
    }

    /// File and line of an instruction.
    fn position(&self, function: &Function, pc: u64) -> Result<(String, u32), Refused> {
        let line = self.value_at(self.field(function, self.at.pcln)?, function, pc)?;
        let number = self.value_at(self.field(function, self.at.pcfile)?, function, pc)?;
        let file = match number.and_then(|n| u64::try_from(n).ok()) {
            Some(number) => {
                let unit = self.field(function, self.at.compilation_unit)?;
                let index = unit.saturating_add(number);
                if index >= self.module.cutab.len {
                    return Err(Refused::new("a file outside of the table of files"));
                }
                match self.u32_of(self.module.cutab, index * 4)? {
                    u32::MAX => String::new(),
                    offset => self.string(self.module.filetab, offset.into())?,
                }
            }
            None => String::new(),
        };
        Ok((file, line.and_then(|l| u32::try_from(l).ok()).unwrap_or(0)))
    }
}

/// Numbers of the function table's encoding, one after the other.
struct Varints<'r> {
    memory: &'r Reader<'r>,
    at: u64,
}

impl Varints<'_> {
    fn next(&mut self) -> Result<u32, Refused> {
        let mut value = 0;
        for i in 0..5 {
            let mut byte = [0];
            self.memory.constant(self.at, &mut byte)?;
            self.at = self.at.wrapping_add(1);
            let [byte] = byte;
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Refused::new("a number in the function table does not end"))
    }
}
