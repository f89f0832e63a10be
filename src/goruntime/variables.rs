//! Names of global variables: by the executable's symbols, and where those are stripped by the code that refers to them.

use std::collections::BTreeMap;
use std::fs::File;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSymbol, ReadCache, SymbolKind};

use super::functions::Functions;
use super::module::Module;
use super::{Refused, Runtime};
use crate::pprof::own::{Whose, whose};

/// Of one program; Kubernetes' largest has some 100,000.
const MAX_SYMBOLS: usize = 4 << 20;
/// Code that is looked through for references.
const MAX_CODE: u64 = 512 << 20;
const MAX_FUNCTION: u64 = 4 << 20;
/// Different addresses that code refers to.
const MAX_ADDRESSES: usize = 1 << 20;
/// Functions that are kept for each, and how many a name has.
const KEPT: usize = 6;
const NAMED: usize = 2;
/// Made by the compiler for the initial value of a variable.
const STATIC: [&str; 2] = ["..stmp_", "..stmp."];

/// Where variables begin, with what they are called.
#[derive(Debug, Default)]
pub struct Variables {
    starts: BTreeMap<u64, Variable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: Name,
    /// Where the variable begins that this is a part of, or the initial value of.
    pub owner: u64,
    /// 0: not known.
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The linker's: `main.sessions`.
    Symbol(String),
    /// Functions that refer to it.
    UsedBy(Vec<String>),
}

impl Name {
    /// Nobody's code but the runtime's has to do with it.
    pub fn is_of_runtime(&self) -> bool {
        match self {
            Name::Symbol(name) => whose(name, None) == Whose::Runtime,
            Name::UsedBy(functions) => !functions.is_empty() && functions.iter().all(|f| whose(f, None) == Whose::Runtime),
        }
    }

    /// Emptied at the beginning of each collection: it holds nothing.
    pub fn is_dropped_by_collection(&self) -> bool {
        match self {
            Name::Symbol(name) => matches!(name.as_str(), "sync.allPools" | "sync.oldPools"),
            Name::UsedBy(functions) => functions.iter().any(|f| f == "sync.poolCleanup"),
        }
    }

    /// For people; `at` is where it is.
    pub fn text(&self, at: u64, module: Option<&str>) -> String {
        match self {
            Name::Symbol(name) => name.clone(),
            Name::UsedBy(functions) if functions.is_empty() => format!("the variable at {at:#x}"),
            Name::UsedBy(functions) => {
                let mut functions: Vec<&String> = functions.iter().collect();
                // what sets it up at the start says less than what works with it
                functions.sort_by_key(|f| (is_init(f), whose(f, module)));
                let works = functions.iter().take_while(|f| !is_init(f)).count();
                let named: Vec<&str> = functions.iter().take(works.clamp(1, NAMED)).map(|f| f.as_str()).collect();
                format!("the variable of {} at {at:#x}", named.join(" and "))
            }
        }
    }
}

impl Variables {
    /// From the symbol table of the executable; empty where it is stripped.
    pub fn of_symbols<'m>(exe: File, bias: u64, modules: impl Iterator<Item = &'m Module> + Clone) -> Result<Variables, Refused> {
        let damaged = |e: object::Error| Refused::new(format!("the symbols of its executable cannot be read: {e}"));
        let cache = ReadCache::new(exe);
        let file: ElfFile64<'_, LittleEndian, _> = ElfFile64::parse(&cache).map_err(damaged)?;
        let mut starts = BTreeMap::new();
        for symbol in file.symbols().take(MAX_SYMBOLS) {
            let at = symbol.address().wrapping_add(bias);
            if symbol.kind() == SymbolKind::Data
                && symbol.size() > 0
                && modules.clone().any(|module| module.data.contains(at) || module.bss.contains(at))
                && let Ok(name) = symbol.name()
            {
                let name = Name::Symbol(name.replace(char::is_control, "\u{fffd}"));
                starts.insert(at, Variable { name, owner: at, size: symbol.size() });
            }
        }
        Ok(Variables { starts })
    }

    /// From all code of the program: which functions refer to which address of its variables.
    pub fn of_code(runtime: &Runtime, functions: &Functions) -> Result<Variables, Refused> {
        let module = &runtime.module;
        let mut uses: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut read = 0;
        for function in functions.all() {
            let function = function?;
            let len = function.end.saturating_sub(function.entry);
            read += len;
            if read > MAX_CODE || len > MAX_FUNCTION || len == 0 {
                continue;
            }
            let Ok(code) = runtime.memory.slice(function.entry, len, MAX_FUNCTION) else { continue };
            let mut decoder = Decoder::with_ip(64, &code, function.entry, DecoderOptions::NONE);
            let mut instruction = Instruction::default();
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                if !instruction.is_ip_rel_memory_operand() {
                    continue;
                }
                let at = instruction.ip_rel_memory_address();
                if module.data.contains(at) || module.bss.contains(at) {
                    if uses.len() >= MAX_ADDRESSES && !uses.contains_key(&at) {
                        continue;
                    }
                    let by = uses.entry(at).or_default();
                    if by.len() < KEPT && by.last() != Some(&function.entry) {
                        by.push(function.entry);
                    }
                }
            }
        }
        let name = |entry: &u64| functions.find(*entry).ok().flatten().and_then(|f| functions.name(&f).ok());
        let variable = |at, by: Vec<u64>| Variable { name: Name::UsedBy(by.iter().filter_map(name).collect()), owner: at, size: 0 };
        Ok(Variables { starts: uses.into_iter().map(|(at, by)| (at, variable(at, by))).collect() })
    }

    /// Where the lists begin, or parts of them, that each collection begins with emptying.
    pub fn dropped_by_collection(&self) -> impl Iterator<Item = u64> {
        self.starts.iter().filter(|(_, variable)| variable.name.is_dropped_by_collection()).map(|(at, _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The variable that an address lies in, and where that begins.
    pub fn at(&self, address: u64) -> Option<(u64, &Variable)> {
        let (start, variable) = self.starts.range(..=address).next_back()?;
        (variable.size == 0 || address - start < variable.size).then_some((*start, variable))
    }

    /// A variable points here. An initial value that has no name of its own belongs to the variable that points to it, and what only the
    /// package's `init` refers to is taken for one.
    pub fn add_initial_value(&mut self, at: u64, of: u64) {
        let size = match (self.starts.get(&at), self.at(at)) {
            (Some(Variable { name: Name::Symbol(name), size, .. }), _) if STATIC.iter().any(|part| name.contains(part)) => *size,
            (Some(Variable { name: Name::UsedBy(functions), .. }), _) if functions.iter().all(|f| is_init(f)) => 0,
            (Some(_), _) => return,
            // within one whose extent is known
            (None, Some((_, variable))) if variable.size > 0 => return,
            (None, _) => 0,
        };
        if let Some((_, owner)) = self.at(of) {
            let (name, owner) = (owner.name.clone(), owner.owner);
            self.starts.insert(at, Variable { name, owner, size });
        }
    }

    /// What only `init` refers to, behind the beginning of an initial value, is the rest of it.
    pub fn settle(&mut self) {
        let mut whole: Option<(Name, u64)> = None;
        for (at, variable) in &mut self.starts {
            let is_part = matches!(&variable.name, Name::UsedBy(functions) if functions.iter().all(|f| is_init(f)));
            match &whole {
                _ if variable.owner != *at => whole = Some((variable.name.clone(), variable.owner)),
                Some((name, owner)) if is_part => (variable.name, variable.owner) = (name.clone(), *owner),
                _ => whole = None,
            }
        }
    }
}

/// It sets up the variables of a package.
fn is_init(function: &str) -> bool {
    function.ends_with(".init") || function.contains(".init.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_by(functions: &[&str]) -> Name {
        Name::UsedBy(functions.iter().map(|f| (*f).to_owned()).collect())
    }

    #[test]
    fn a_variable_without_a_name_is_called_after_the_programs_own_functions() {
        let name = used_by(&["main.init", "net/http.(*Server).Serve", "main.(*Cache).Put", "main.fill"]);
        assert_eq!(name.text(0x93, None), "the variable of main.(*Cache).Put and main.fill at 0x93");
        assert_eq!(used_by(&["main.init"]).text(0x93, None), "the variable of main.init at 0x93");
        assert!(used_by(&["runtime.newproc", "runtime.gcStart"]).is_of_runtime());
        assert!(!used_by(&["runtime.newproc", "main.x"]).is_of_runtime());
        assert!(!Name::Symbol("runtime/cgo.handles".into()).is_of_runtime());
    }

    #[test]
    fn an_address_is_in_the_variable_that_begins_before_it_and_reaches_it() {
        let variable = |at, name: &str, size| (at, Variable { name: Name::Symbol(name.into()), owner: at, size });
        let mut variables = Variables { starts: [variable(100, "main.a", 16), variable(200, "main..stmp_1", 32)].into() };
        assert_eq!(variables.at(108).unwrap().1.name, Name::Symbol("main.a".into()));
        assert!(variables.at(116).is_none() && variables.at(99).is_none());
        variables.add_initial_value(200, 108);
        assert_eq!(variables.at(224).unwrap().1.name, Name::Symbol("main.a".into()));
    }
}
