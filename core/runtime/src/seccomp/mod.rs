//! Seccomp filters: Docker's profiles, the builtin one, and the compiler from OCI rules to the program the container
//! init installs. Pure; nothing here makes a system call but to ask the kernel its version and whether it knows x32.
//!
//! ```text
//! Profile (JSON or builtin) --resolve(machine, capabilities)--> LinuxSeccomp (OCI) --compile--> SeccompProgram
//! ```

mod builtin;
mod compile;
mod names;
mod profile;
mod rules;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use dockerd_sys::seccomp as sys;
use dockerd_types::{ErrorKind, Kinded};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

pub use names::Abi;
pub use profile::{KernelVersion, Machine, Profile, ProfileError};

/// A filter ready for `dockerd_sys::seccomp::install`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SeccompProgram {
    /// Classic BPF, packed as the kernel has it.
    pub instructions: Vec<u64>,
    /// Flags of the installing call.
    pub flags: u32,
}

/// Rules that do not fit into a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Handing calls to another process needs a listener nobody serves here.
    #[error("seccomp action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// System calls have six arguments.
    #[error("seccomp rule compares argument {0}, but there are only 0 to 5")]
    Argument(usize),
    /// The kernel takes 16 bits.
    #[error("seccomp error number {0} is out of range")]
    Errno(u32),
    /// The kernel takes 4096 instructions.
    #[error("seccomp profile needs {0} instructions, more than the kernel takes")]
    TooLong(usize),
}

impl Kinded for CompileError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// Programs kept. Containers of one host use few profiles, and few sets of capabilities with them.
const KEPT: usize = 16;

type Cache = Vec<(LinuxSeccomp, Arc<SeccompProgram>)>;

/// Compiles for this host, or finds the same section compiled before (comparing costs a few microseconds).
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Arc<SeccompProgram>, CompileError> {
    static CACHE: Mutex<Cache> = Mutex::new(Vec::new());
    let cache = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = cache().iter().find(|(known, _)| known == seccomp).map(|(_, program)| Arc::clone(program)) {
        return Ok(program);
    }
    let mut rules = rules::Rules::from_oci(seccomp, Abi::NATIVE)?;
    if !sys::x32_is_served() {
        rules.retire_x32();
    }
    let program = Arc::new(SeccompProgram { instructions: compile::compile(&rules)?, flags: flags(seccomp) });
    let mut cache = cache();
    if cache.len() >= KEPT {
        cache.remove(0);
    }
    cache.push((seccomp.clone(), Arc::clone(&program)));
    Ok(program)
}

/// Compiles for a host of the given kind, without the cache.
pub fn compile_for(seccomp: &LinuxSeccomp, native: Abi) -> Result<SeccompProgram, CompileError> {
    let rules = rules::Rules::from_oci(seccomp, native)?;
    Ok(SeccompProgram { instructions: compile::compile(&rules)?, flags: flags(seccomp) })
}

/// Without a word about it, speculative store bypass stays as it is, as the OCI runtimes do it.
fn flags(seccomp: &LinuxSeccomp) -> u32 {
    let Some(flags) = seccomp.flags() else { return sys::FLAG_SPEC_ALLOW };
    flags.iter().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => sys::FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => sys::FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => sys::FLAG_WAIT_KILLABLE_RECV,
            // The container init has one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        }
    })
}

#[cfg(test)]
mod tests;
