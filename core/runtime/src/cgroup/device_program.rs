//! The device list as an eBPF program for version 2, where a program attached to the cgroup answers each access.

use dockerd_sys::bpf::Instruction;

use super::devices::{DeviceException, DeviceKind, DeviceList, access};

// The context: access in the upper half and kind in the lower half of the first word, then major and minor.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const CONTEXT: u8 = 1;
const RESULT: u8 = 0;
const SCRATCH: u8 = 6;

/// Makes the program: for each exception a block that answers and returns, at the end the default.
pub(super) fn compile(list: &DeviceList) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::load_word(KIND, CONTEXT, 0),
        Instruction::and_value(KIND, 0xffff),
        Instruction::load_word(ACCESS, CONTEXT, 0),
        Instruction::shift_right(ACCESS, 16),
        Instruction::load_word(MAJOR, CONTEXT, 4),
        Instruction::load_word(MINOR, CONTEXT, 8),
    ];
    for exception in &list.exceptions {
        program.extend(block(exception, list.default_allow));
    }
    program.extend(answer(list.default_allow));
    program
}

/// An allowing exception holds if it covers all of what is asked; a denying one if it touches any of it.
fn block(exception: &DeviceException, default_allow: bool) -> Vec<Instruction> {
    let kind = match exception.kind {
        DeviceKind::Block => 1,
        DeviceKind::Character => 2,
    };
    let mut tests = vec![Test::Unequal(KIND, kind)];
    if exception.access != access::ALL {
        tests.push(if default_allow {
            Test::NoneOf(i32::from(exception.access))
        } else {
            Test::MoreThan(i32::from(exception.access))
        });
    }
    // Device numbers fit in 20 bits, so the constants are never negative.
    tests.extend(exception.major.map(|major| Test::Unequal(MAJOR, major as i32)));
    tests.extend(exception.minor.map(|minor| Test::Unequal(MINOR, minor as i32)));
    let answer = answer(!default_allow);
    let mut left = tests.iter().map(Test::len).sum::<usize>() + answer.len();
    let mut block = Vec::with_capacity(left);
    for test in &tests {
        left -= test.len();
        test.emit(&mut block, left as i16);
    }
    block.extend(answer);
    block
}

fn answer(allow: bool) -> [Instruction; 2] {
    [Instruction::move_value(RESULT, i32::from(allow)), Instruction::exit()]
}

/// A reason to skip a block.
enum Test {
    Unequal(u8, i32),
    MoreThan(i32),
    NoneOf(i32),
}

impl Test {
    fn len(&self) -> usize {
        match self {
            Self::Unequal(..) => 1,
            Self::MoreThan(_) => 3,
            Self::NoneOf(_) => 4,
        }
    }

    fn emit(&self, out: &mut Vec<Instruction>, skip: i16) {
        match *self {
            Self::Unequal(register, value) => out.push(Instruction::jump_not_equal(register, value, skip)),
            Self::MoreThan(mask) => out.extend([
                Instruction::move_register(SCRATCH, ACCESS),
                Instruction::and_value(SCRATCH, mask),
                Instruction::jump_registers_differ(SCRATCH, ACCESS, skip),
            ]),
            Self::NoneOf(mask) => out.extend([
                Instruction::move_register(SCRATCH, ACCESS),
                Instruction::and_value(SCRATCH, mask),
                Instruction::jump_not_equal(SCRATCH, 0, 1),
                Instruction::jump_not_equal(SCRATCH, -1, skip),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{docker_rules, rule};
    use super::*;
    use proptest::prelude::*;

    /// Runs the few instructions the compiler uses.
    fn run(program: &[Instruction], device: DeviceException) -> bool {
        let kind = if device.kind == DeviceKind::Block { 1u32 } else { 2 };
        let context = [u32::from(device.access) << 16 | kind, device.major.unwrap(), device.minor.unwrap()];
        let mut registers = [0u32; 11];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let mut jump = false;
            match i.code {
                0x61 => registers[dst] = context[i.offset as usize / 4],
                0xbc => registers[dst] = registers[src],
                0xb4 => registers[dst] = i.immediate as u32,
                0x54 => registers[dst] &= i.immediate as u32,
                0x74 => registers[dst] >>= i.immediate,
                0x55 => jump = registers[dst] as u64 != i.immediate as i64 as u64,
                0x5d => jump = registers[dst] != registers[src],
                0x95 => return registers[0] == 1,
                other => panic!("unexpected operation {other:#x}"),
            }
            at += 1 + if jump { i.offset as usize } else { 0 };
        }
    }

    fn device() -> impl Strategy<Value = DeviceException> {
        let number = || prop_oneof![0u32..12, Just(136), Just(200), Just(229), 0u32..1 << 20];
        (any::<bool>(), number(), number(), 1u8..8).prop_map(|(block, major, minor, access)| DeviceException {
            kind: if block { DeviceKind::Block } else { DeviceKind::Character },
            major: Some(major),
            minor: Some(minor),
            access,
        })
    }

    fn list() -> impl Strategy<Value = DeviceList> {
        let number = || prop_oneof![Just(None), (0u32..12).prop_map(Some)];
        let exception = (any::<bool>(), number(), number(), 1u8..8).prop_map(|(block, major, minor, access)| {
            let kind = if block { DeviceKind::Block } else { DeviceKind::Character };
            DeviceException { kind, major, minor, access }
        });
        (any::<bool>(), prop::collection::vec(exception, 0..12))
            .prop_map(|(default_allow, exceptions)| DeviceList { default_allow, exceptions })
    }

    proptest! {
        #[test]
        fn program_answers_as_the_list(list in list(), device in device()) {
            prop_assert_eq!(run(&compile(&list), device), list.allows(device));
        }
    }

    #[test]
    fn privileged_verifier_takes_default_and_denying_programs() {
        for rules in [docker_rules(), vec![rule(true, "a")], vec![rule(true, "a"), rule(false, "b 8:* w")]] {
            let list = DeviceList::resolve(&rules).unwrap();
            dockerd_sys::bpf::load_device_program(c"devices", &compile(&list)).unwrap();
        }
    }
}
