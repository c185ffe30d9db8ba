//! The compiled program against the rules it came from, by an interpreter of classic BPF.

use std::time::Instant;

use dockerd_sys::seccomp::fields;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::names::X32_BIT;
use super::rules::{RET_KILL_THREAD, Rules, Test};
use super::*;
use crate::capabilities;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const MACHINE: Machine = Machine { abi: Abi::X86_64, kernel: KernelVersion { major: 6, minor: 1 } };
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

/// Runs a program and counts its steps.
fn run(program: &[u64], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let (code, jump_true, jump_false, k) = fields(program[at]);
        steps += 1;
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        match code {
            0x20 => {
                accumulator = match k {
                    0 => number,
                    4 => architecture,
                    16.. => {
                        let argument = arguments[(k as usize - 16) / 8];
                        if k % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
                    }
                    _ => panic!("load from {k}"),
                }
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return (k, steps),
            other => panic!("unexpected operation {other:#x}"),
        }
    }
}

/// What the rules say, straight from the tables.
fn decide(rules: &Rules, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let x32 = architecture == X86_64 && number >= X32_BIT;
    let Some(abi) = rules.abis.iter().find(|abi| abi.abi.audit() == architecture && (abi.abi == Abi::X32) == x32)
    else {
        return RET_KILL_THREAD;
    };
    if abi.ceiling.is_some_and(|ceiling| number > ceiling) {
        return Rules::TOO_NEW;
    }
    let holds = |condition: &super::rules::Condition| {
        let narrow = |value: u64| if abi.abi.is_32_bit() { value & 0xffff_ffff } else { value };
        let a = narrow(arguments[condition.index as usize]);
        match condition.test {
            Test::Equal(v) => a == narrow(v),
            Test::NotEqual(v) => a != narrow(v),
            Test::Less(v) => a < narrow(v),
            Test::LessOrEqual(v) => a <= narrow(v),
            Test::Greater(v) => a > narrow(v),
            Test::GreaterOrEqual(v) => a >= narrow(v),
            Test::Masked { mask, value } => a & narrow(mask) == narrow(value),
        }
    };
    let clauses = abi.calls.get(&number).map(Vec::as_slice).unwrap_or_default();
    clauses.iter().find(|c| c.conditions.iter().all(holds)).map_or(rules.default, |c| c.action)
}

fn default_for(bounding: u64) -> LinuxSeccomp {
    Profile::builtin().resolve(MACHINE, bounding).unwrap().unwrap()
}

#[test]
fn a_convention_the_kernel_lacks_is_not_looked_up() {
    let mut rules = Rules::from_oci(&default_for(capabilities::DEFAULT), Abi::X86_64).unwrap();
    let whole = super::compile::compile(&rules).unwrap();
    rules.retire_x32();
    let program = super::compile::compile(&rules).unwrap();
    assert!(program.len() < whole.len() * 3 / 4, "{} of {}", program.len(), whole.len());
    for name in ["read", "mount"] {
        assert_eq!(run(&program, X86_64, Abi::X32.number(name).unwrap(), [0; 6]).0, ENOSYS);
        let native = Abi::X86_64.number(name).unwrap();
        assert_eq!(run(&program, X86_64, native, [0; 6]).0, run(&whole, X86_64, native, [0; 6]).0);
    }
    let mut strict = Rules { default: RET_KILL_THREAD, ..Rules::from_oci(&default_for(0), Abi::X86_64).unwrap() };
    let before = strict.clone();
    strict.retire_x32();
    assert_eq!(strict, before, "callers are killed, not refused");
}

fn answer(seccomp: &LinuxSeccomp, abi: Abi, name: &str, first: u64) -> u32 {
    let program = compile_for(seccomp, Abi::X86_64).unwrap();
    run(&program.instructions, abi.audit(), abi.number(name).unwrap(), [first, 0, 0, 0, 0, 0]).0
}

#[test]
fn the_default_profile_decides_as_docker() {
    let usual = default_for(capabilities::DEFAULT);
    let admin = default_for(capabilities::DEFAULT | 1 << 21);
    for (name, first, want) in [
        ("read", 0, ALLOW),
        ("clone3", 0, ENOSYS),
        ("clone", 17, ALLOW),
        ("clone", 0x1000_0000 | 17, EPERM),
        ("unshare", 0, EPERM),
        ("mount", 0, EPERM),
        ("socket", 2, ALLOW),
        ("socket", 40, EPERM),
        ("personality", 0, ALLOW),
        ("personality", 0x2_0008, ALLOW),
        ("personality", 0xffff_ffff, ALLOW),
        ("personality", 0xffff_ffff_ffff_ffff, EPERM),
        ("personality", 0x4_0000, EPERM),
        ("io_uring_setup", 0, EPERM),
        ("keyctl", 0, EPERM),
        ("ptrace", 0, ALLOW),
        ("chroot", 0, ALLOW),
        ("open_tree_attr", 0, ENOSYS),
    ] {
        assert_eq!(answer(&usual, Abi::X86_64, name, first), want, "{name}({first:#x})");
    }
    for name in ["clone3", "unshare", "mount", "bpf", "setns"] {
        assert_eq!(answer(&admin, Abi::X86_64, name, 0x7e02_0000), ALLOW, "{name}");
    }
    for (abi, name, want) in [
        (Abi::X86, "socketcall", ALLOW),
        (Abi::X86, "mount", EPERM),
        (Abi::X86, "modify_ldt", ALLOW),
        (Abi::X32, "execve", ALLOW),
        (Abi::X32, "mount", EPERM),
        (Abi::X32, "clone3", ENOSYS),
        (Abi::X32, "socket", ALLOW),
    ] {
        assert_eq!(answer(&usual, abi, name, 0), want, "{abi:?} {name}");
    }
    // An x32 argument has 32 bits, whatever the register holds.
    assert_eq!(answer(&usual, Abi::X32, "socket", 1 << 32 | 40), EPERM);
    let program = compile_for(&usual, Abi::X86_64).unwrap();
    assert_eq!(run(&program.instructions, Abi::Aarch64.audit(), 0, [0; 6]).0, RET_KILL_THREAD);
    assert_eq!(run(&program.instructions, X86_64, 9999, [0; 6]).0, ENOSYS);
    assert!(program.instructions.len() < 400, "{}", program.instructions.len());
    let steps = (0..500).map(|n| run(&program.instructions, X86_64, n, [0; 6]).1).max().unwrap();
    assert!(steps < 40, "{steps}");
}

#[test]
fn a_single_architecture_kills_the_others() {
    let seccomp = LinuxSeccompBuilder::default().default_action(Action::ScmpActAllow).build().unwrap();
    let program = compile_for(&seccomp, Abi::X86_64).unwrap().instructions;
    assert_eq!(run(&program, X86_64, 5000, [0; 6]).0, ALLOW);
    assert_eq!(run(&program, X86_64, X32_BIT, [0; 6]).0, RET_KILL_THREAD);
    assert_eq!(run(&program, X86, 1, [0; 6]).0, RET_KILL_THREAD);
}

#[test]
fn arguments_named_twice_count_alone_and_plain_rules_win() {
    let arg = |value: u64| LinuxSeccompArgBuilder::default().index(0usize).value(value).op(Operator::ScmpCmpEq).build();
    let rule = |args: Vec<_>, action| {
        LinuxSyscallBuilder::default().names(vec!["kill".to_owned()]).action(action).args(args).build().unwrap()
    };
    let section = |rules: Vec<_>| {
        LinuxSeccompBuilder::default().default_action(Action::ScmpActErrno).syscalls(rules).build().unwrap()
    };
    let twice = section(vec![rule(vec![arg(1).unwrap(), arg(2).unwrap()], Action::ScmpActAllow)]);
    let answers = [1, 2, 3].map(|first| answer(&twice, Abi::X86_64, "kill", first));
    assert_eq!(answers, [ALLOW, ALLOW, EPERM]);
    let plain = section(vec![rule(vec![arg(1).unwrap()], Action::ScmpActTrap), rule(Vec::new(), Action::ScmpActAllow)]);
    assert_eq!(answer(&plain, Abi::X86_64, "kill", 1), ALLOW);
}

#[test]
fn what_cannot_be_compiled() {
    let notify = LinuxSeccompBuilder::default().default_action(Action::ScmpActNotify).build().unwrap();
    assert_eq!(compile(&notify).unwrap_err(), CompileError::Notify);
    let far = LinuxSyscallBuilder::default()
        .names(vec!["kill".to_owned()])
        .action(Action::ScmpActAllow)
        .args(vec![LinuxSeccompArgBuilder::default().index(6usize).build().unwrap()])
        .build()
        .unwrap();
    let section =
        LinuxSeccompBuilder::default().default_action(Action::ScmpActErrno).syscalls(vec![far]).build().unwrap();
    assert_eq!(compile(&section).unwrap_err(), CompileError::Argument(6));
}

#[test]
fn the_cache_gives_the_same_program() {
    let section = default_for(1 << 30);
    let first = compile(&section).unwrap();
    assert!(Arc::ptr_eq(&first, &compile(&section.clone()).unwrap()));
}

#[test]
fn privileged_kernel_takes_the_default_program() {
    std::thread::spawn(|| {
        let program = compile(&default_for(0)).unwrap();
        let start = Instant::now();
        dockerd_sys::seccomp::install(&program.instructions, program.flags).unwrap();
        eprintln!("install of {} instructions: {:?}", program.instructions.len(), start.elapsed());
        // A call that is not allowed: unshare of nothing, through a child that cannot make namespaces any more.
        assert!(std::fs::read_to_string("/proc/thread-self/status").unwrap().contains("Seccomp:\t2"));
    })
    .join()
    .unwrap();
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let all: Vec<&str> = super::table::CALLS.iter().map(|row| row.0).collect();
    prop::collection::vec(prop::sample::select(all), 1..20)
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..5, Just(u64::from(u32::MAX)), Just(1 << 32), Just(u64::MAX), Just(0x7e02_0000), any::<u64>()]
}

fn section() -> impl Strategy<Value = LinuxSeccomp> {
    let action = || {
        prop::sample::select(vec![
            Action::ScmpActAllow,
            Action::ScmpActErrno,
            Action::ScmpActKillProcess,
            Action::ScmpActLog,
        ])
    };
    let operator = prop::sample::select(vec![
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ]);
    let arg = (0usize..6, values(), values(), operator).prop_map(|(index, value, two, op)| {
        LinuxSeccompArgBuilder::default().index(index).value(value).value_two(two).op(op).build().unwrap()
    });
    let args = prop_oneof![Just(Vec::new()), prop::collection::vec(arg, 1..4)];
    let rule = (names(), action(), args, 1u32..100).prop_map(|(names, action, args, errno)| {
        LinuxSyscallBuilder::default().names(names).action(action).errno_ret(errno).args(args).build().unwrap()
    });
    let arches = prop::sample::subsequence(
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchArm, Arch::ScmpArchAarch64],
        0..5,
    );
    (action(), arches, prop::collection::vec(rule, 0..30)).prop_map(|(default, arches, rules)| {
        LinuxSeccompBuilder::default().default_action(default).architectures(arches).syscalls(rules).build().unwrap()
    })
}

fn call() -> impl Strategy<Value = (u32, u32, [u64; 6])> {
    let architecture = prop::sample::select(vec![X86_64, X86, Abi::Aarch64.audit(), Abi::Arm.audit()]);
    let number = prop_oneof![0u32..480, (0u32..560).prop_map(|n| n | X32_BIT), 0xf0000u32..0xf0008, any::<u32>()];
    (architecture, number, prop::array::uniform6(values()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn programs_decide_as_their_rules(
        section in section(),
        native in prop::sample::select(vec![Abi::X86_64, Abi::Aarch64]),
        calls in prop::collection::vec(call(), 50),
    ) {
        let rules = Rules::from_oci(&section, native).unwrap();
        let program = compile::compile(&rules).unwrap();
        for (architecture, number, arguments) in calls {
            // Arguments of 32-bit callers come with a zero upper half.
            let narrow = architecture == X86 || architecture == Abi::Arm.audit();
            let arguments = if narrow { arguments.map(|a| a & 0xffff_ffff) } else { arguments };
            prop_assert_eq!(
                run(&program, architecture, number, arguments).0,
                decide(&rules, architecture, number, arguments),
                "{:#x} {:#x} {:x?}", architecture, number, arguments
            );
        }
        // Every call the rules are about, too.
        for abi in &rules.abis {
            for &number in abi.calls.keys() {
                let (program, rules) = (run(&program, abi.abi.audit(), number, [0; 6]).0, decide(&rules, abi.abi.audit(), number, [0; 6]));
                prop_assert_eq!(program, rules);
            }
        }
    }

    #[test]
    fn the_default_profile_decides_as_its_rules(bounding in any::<u64>(), calls in prop::collection::vec(call(), 200)) {
        let rules = Rules::from_oci(&default_for(bounding), Abi::X86_64).unwrap();
        let program = compile::compile(&rules).unwrap();
        for (architecture, number, arguments) in calls {
            let arguments = if architecture == X86 { arguments.map(|a| a & 0xffff_ffff) } else { arguments };
            prop_assert_eq!(
                run(&program, architecture, number, arguments).0,
                decide(&rules, architecture, number, arguments)
            );
        }
    }
}
