//! Where the runtime's own variables are, read off its code: most Go binaries in production have no symbols.
//!
//! The register ABI (since Go 1.17) passes a method's receiver in RAX. So `lea rax, [rip+X]` before a call of `(*mheap).alloc` says that the
//! one mheap is at X; all such calls in the runtime vote. Plain variables are those that a certain function refers to.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Refused;
use super::functions::{Function, Functions};
use super::layout::Layout;
use super::memory::Reader;
use super::module::Module;

/// No function of the runtime is larger, but for tables of a generated one.
const MAX_CODE: u64 = 64 << 10;
/// Of all functions of the runtime.
const MAX_ALL_CODE: u64 = 16 << 20;
/// Between loading the receiver and the call.
const MAX_BETWEEN: u32 = 8;
/// The winner was measured to have 13 and more, the runner-up at most 1.
const MIN_VOTES: u32 = 4;

/// Addresses of the runtime's variables; `None`: it was not found, or nothing is linked that uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `runtime.mheap_`
    pub mheap: Option<u64>,
    /// `runtime.gcController`
    pub gc_controller: Option<u64>,
    /// `runtime.memstats`
    pub memstats: Option<u64>,
    /// `runtime.allgs`, a slice
    pub allgs: Option<u64>,
    /// `runtime.allp`, a slice
    pub allp: Option<u64>,
    /// `runtime.mbuckets`
    pub mbuckets: Option<u64>,
    /// `runtime.mProfCycle`
    pub mprof_cycle: Option<u64>,
    /// `runtime.MemProfileRate`
    pub mem_profile_rate: Option<u64>,
    /// One of them is `runtime.allfin`: blocks of finalizers that wait to be run.
    pub finalizer_blocks: Vec<u64>,
    /// One of them is `runtime.work.cpuStats`.
    pub mark_termination: Vec<u64>,
    /// Heap profiling is linked in: else the linker turns it off (`runtime.disableMemoryProfiling`).
    pub has_mem_profile: bool,
}

/// The address of `runtime.NAME`, where nothing goes on without it.
pub(super) fn found(at: Option<u64>, name: &str) -> Result<u64, Refused> {
    at.ok_or_else(|| Refused::new(format!("runtime.{name} was not found in its code")))
}

/// Receivers whose one instance is a global.
const RECEIVERS: [&str; 3] = ["runtime.(*mheap).", "runtime.(*gcControllerState).", "runtime.(*consistentHeapStats)."];
/// Functions whose references to globals tell more.
const TELLING: [&str; 8] = [
    "runtime.allgadd",
    "runtime.procresize",
    "runtime.mProf_FlushLocked",
    "runtime.memProfileInternal",
    "runtime.MemProfile",
    "runtime.profilealloc",
    "runtime.queuefinalizer",
    "runtime.gcMarkTermination",
];

/// A use of a global by an instruction.
#[derive(Clone, Copy)]
struct Use {
    address: u64,
    /// `mov r64, [rip+X]`
    loads_word: bool,
}

impl Globals {
    pub fn find(memory: &Reader, module: &Module, functions: &Functions, layout: &Layout) -> Result<Globals, Refused> {
        let mut receivers: HashMap<u64, usize> = HashMap::new();
        let mut telling: HashMap<u64, &'static str> = HashMap::new();
        let mut runtime = Vec::new();
        for function in functions.all() {
            let function = function?;
            let name = functions.name(&function)?;
            if !name.starts_with("runtime.") {
                continue;
            }
            if let Some(i) = RECEIVERS.iter().position(|receiver| name.starts_with(receiver)) {
                receivers.insert(function.entry, i);
            }
            telling.extend(TELLING.iter().find(|telling| **telling == name).map(|name| (function.entry, *name)));
            runtime.push(function);
        }
        let mut votes: HashMap<(usize, u64), u32> = HashMap::new();
        let mut uses: HashMap<&'static str, Vec<Use>> = HashMap::new();
        let mut read = 0;
        for function in &runtime {
            let len = function.end.saturating_sub(function.entry);
            read += len;
            if len > MAX_CODE || read > MAX_ALL_CODE {
                continue;
            }
            let code = memory.slice(function.entry, len, MAX_CODE)?;
            let told = telling.get(&function.entry).map(|name| uses.entry(name).or_default());
            look_at(&code, function, &receivers, &mut votes, told);
        }
        let winner = |receiver| winner(&votes, receiver);
        let of = |name: &str| uses.get(name).map(Vec::as_slice).unwrap_or_default();
        let is_global = |used: &&Use| module.is_global(used.address);
        let internal = of("runtime.memProfileInternal");
        let cycle = if internal.is_empty() { of("runtime.MemProfile") } else { internal };
        Ok(Globals {
            mheap: winner(0),
            gc_controller: winner(1),
            memstats: winner(2).zip(layout.find("runtime.mstats", "heapStats")).map(|(at, field)| at.wrapping_sub(field.offset.into())),
            allgs: slices(of("runtime.allgadd"), module).next(),
            allp: all_ps(memory, slices(of("runtime.procresize"), module), layout),
            mbuckets: of("runtime.mProf_FlushLocked").iter().find(is_global).map(|u| u.address),
            mprof_cycle: cycle.iter().find(is_global).map(|u| u.address),
            mem_profile_rate: of("runtime.profilealloc").iter().rfind(|u| u.loads_word && is_global(u)).map(|u| u.address),
            finalizer_blocks: addresses(of("runtime.queuefinalizer"), module),
            mark_termination: addresses(of("runtime.gcMarkTermination"), module),
            has_mem_profile: !cycle.is_empty(),
        })
    }
}

/// One pass over the code of a function: votes of its calls, and what it refers to if that is of interest.
fn look_at(
    code: &[u8],
    function: &Function,
    receivers: &HashMap<u64, usize>,
    votes: &mut HashMap<(usize, u64), u32>,
    mut told: Option<&mut Vec<Use>>,
) {
    let mut decoder = Decoder::with_ip(64, code, function.entry, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let (mut receiver, mut since) = (None, 0);
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        since += 1;
        let global = instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
        if let (Some(told), Some(address)) = (told.as_deref_mut(), global) {
            told.push(Use { address, loads_word: instruction.code() == Code::Mov_r64_rm64 });
        }
        let writes_rax = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && matches!(instruction.op0_register(), Register::RAX | Register::EAX | Register::AX | Register::AL)
            && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
        if instruction.mnemonic() == Mnemonic::Call {
            if let Some(address) = receiver
                && since <= MAX_BETWEEN
                && instruction.op0_kind() == OpKind::NearBranch64
                && let Some(i) = receivers.get(&instruction.near_branch64())
            {
                *votes.entry((*i, address)).or_default() += 1;
            }
            receiver = None;
        } else if writes_rax {
            receiver = global.filter(|_| instruction.mnemonic() == Mnemonic::Lea);
            since = 0;
        }
    }
}

/// The address with the most votes, if no other has half as many.
fn winner(votes: &HashMap<(usize, u64), u32>, receiver: usize) -> Option<u64> {
    let mut of: Vec<(u32, u64)> = votes.iter().filter(|((i, _), _)| *i == receiver).map(|((_, at), n)| (*n, *at)).collect();
    of.sort_unstable_by(|a, b| b.cmp(a));
    let second = of.get(1).map_or(0, |(n, _)| *n);
    of.first().filter(|(n, _)| *n >= MIN_VOTES && second * 2 < *n).map(|(_, at)| *at)
}

/// The globals among these, each once.
fn addresses(uses: &[Use], module: &Module) -> Vec<u64> {
    let globals: BTreeSet<u64> = uses.iter().map(|u| u.address).filter(|address| module.is_global(*address)).collect();
    globals.into_iter().collect()
}

/// Slices among the globals: pointer, length and capacity are all referred to.
fn slices<'a>(uses: &'a [Use], module: &'a Module) -> impl Iterator<Item = u64> + 'a {
    let at: BTreeSet<u64> = uses.iter().map(|u| u.address).filter(|a| module.bss.contains(*a)).collect();
    let all = at.clone();
    at.into_iter().filter(move |a| all.contains(&(a + 8)) && all.contains(&(a + 16)))
}

/// Of the candidates, the slice of Ps: each knows its own index.
fn all_ps(memory: &Reader, candidates: impl Iterator<Item = u64>, layout: &Layout) -> Option<u64> {
    let id = layout.find("runtime.p", "id")?;
    candidates.into_iter().find(|at| {
        let [first, len] = [memory.u64(*at), memory.u64(at + 8)].map(|word| word.unwrap_or(0));
        let Ok(ps) = memory.words(first, len, super::MAX_PS) else { return false };
        !ps.is_empty()
            && (0u64..)
                .zip(&ps)
                .all(|(i, p)| memory.record(p.wrapping_add(id.offset.into()), id.size).and_then(|r| r.at(0, id.size)) == Ok(i))
    })
}
