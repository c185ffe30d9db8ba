//! Fuzz targets of this crate's parsers.

use dockerd_sys::seccomp::{MAX_INSTRUCTIONS, fields};

use crate::seccomp::{Abi, KernelVersion, Machine, Profile, compile_for};

/// Classic BPF: unconditional jump, the three conditional ones, return.
const JUMP: u16 = 0x05;
const CONDITIONAL: [u16; 3] = [0x15, 0x25, 0x35];
const RETURN: u16 = 0x06;

/// A profile that compiles gives a program the kernel takes: no jump leaves it, and its end returns.
pub fn seccomp_profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(profile) = Profile::parse(text) else { return };
    for abi in [Abi::X86_64, Abi::Aarch64] {
        let machine = Machine { abi, kernel: KernelVersion { major: 6, minor: 1 } };
        let Ok(Some(seccomp)) = profile.resolve(machine, 0xa804_25fb) else { continue };
        let Ok(program) = compile_for(&seccomp, abi) else { continue };
        let length = program.instructions.len();
        assert!((1..=MAX_INSTRUCTIONS).contains(&length), "{length} instructions");
        for (at, instruction) in program.instructions.iter().enumerate() {
            let (code, when_true, when_false, k) = fields(*instruction);
            let furthest = match code {
                JUMP => k as usize,
                code if CONDITIONAL.contains(&code) => usize::from(when_true.max(when_false)),
                RETURN => continue,
                _ => 0,
            };
            assert!(at + 1 + furthest < length, "instruction {at} of {length} leads out");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn profiles_and_mutations() {
        fuzz_mutate::run("seccomp_profile", 4000, super::seccomp_profile);
    }
}
