//! An OCI seccomp section as tables by calling convention and number: what the filter has to decide, before it is a
//! program. The order of precedence is the one users know from libseccomp through runc: a rule without arguments beats
//! every rule with arguments for the same call, and of equals the first counts.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::CompileError;
use super::names::{Abi, X32_BIT};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ACTION: u32 = 0xffff_0000;

/// What happens to callers through an architecture the profile does not name.
pub(super) const RET_KILL_THREAD: u32 = 0;

/// Everything the filter decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// What calls get that no rule is about.
    pub(super) default: u32,
    /// The conventions served; x32 only ever beside x86-64.
    pub(super) abis: Vec<AbiRules>,
}

/// The rules of one calling convention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AbiRules {
    pub(super) abi: Abi,
    /// By number, clauses tried in order; the last resort is the default.
    pub(super) calls: BTreeMap<u32, Vec<Clause>>,
    /// Calls beyond this number are newer than the profile, and said not to exist, so that programs fall back to
    /// older ones instead of reporting a lack of permission.
    pub(super) ceiling: Option<u32>,
}

/// If all conditions hold, return `action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) test: Test,
}

/// All comparisons are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Masked { mask: u64, value: u64 },
}

impl Rules {
    /// The answer for calls newer than the profile.
    pub(super) const TOO_NEW: u32 = RET_ERRNO | ENOSYS;

    pub(super) fn from_oci(seccomp: &LinuxSeccomp, native: Abi) -> Result<Self, CompileError> {
        let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
        let permissive = matches!(
            seccomp.default_action(),
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
        );
        let rules = seccomp.syscalls().as_deref().unwrap_or_default();
        let abis = abis(seccomp.architectures().as_deref().unwrap_or_default(), native)
            .into_iter()
            .map(|abi| AbiRules::new(abi, rules, default, permissive))
            .collect::<Result<_, _>>()?;
        Ok(Self { default, abis })
    }

    /// This kernel knows no x32 call: each gets the answer that an allowed one would get, as if it were too new. Profiles
    /// that do more to callers than refuse stay as they are.
    pub(super) fn retire_x32(&mut self) {
        let mild = |action: u32| matches!(action & RET_ACTION, RET_ERRNO | RET_ALLOW);
        for rules in self.abis.iter_mut().filter(|rules| rules.abi == Abi::X32 && mild(self.default)) {
            if rules.calls.values().flatten().all(|clause| mild(clause.action)) {
                rules.calls.clear();
                rules.ceiling = Some(X32_BIT - 1);
            }
        }
    }
}

impl AbiRules {
    fn new(abi: Abi, rules: &[LinuxSyscall], default: u32, permissive: bool) -> Result<Self, CompileError> {
        let mut this = Self { abi, calls: BTreeMap::new(), ceiling: None };
        for rule in rules {
            let action = action(rule.action(), rule.errno_ret())?;
            let alternatives = alternatives(rule.args().as_deref().unwrap_or_default())?;
            for name in rule.names() {
                let number = abi.number(name);
                // Names of other machines and other times are no mistake; profiles are written for all.
                this.ceiling = this.ceiling.max(number);
                if action == default {
                    continue;
                }
                if let Some(number) = number {
                    alternatives.iter().for_each(|conditions| this.add(number, conditions, action));
                }
                if let (Some((entry, selector)), [conditions]) = (abi.multiplexed(name), &alternatives[..])
                    && conditions.is_empty()
                {
                    this.add(entry, &[Condition { index: 0, test: Test::Equal(selector) }], action);
                }
            }
        }
        if permissive {
            this.ceiling = None;
        }
        Ok(this)
    }

    fn add(&mut self, number: u32, conditions: &[Condition], action: u32) {
        let clauses = self.calls.entry(number).or_default();
        if clauses.iter().any(|known| known.conditions.is_empty() || known.conditions == conditions) {
            return;
        }
        if conditions.is_empty() {
            clauses.clear();
        }
        clauses.push(Clause { conditions: conditions.to_vec(), action });
    }
}

/// The conventions of a list of architectures. The native one is always served, others of this machine if named, and
/// those of other machines cannot occur.
fn abis(architectures: &[Arch], native: Abi) -> Vec<Abi> {
    let mut abis = vec![native];
    for arch in architectures {
        let abi = match arch {
            Arch::ScmpArchX86_64 => Abi::X86_64,
            Arch::ScmpArchX32 => Abi::X32,
            Arch::ScmpArchX86 => Abi::X86,
            Arch::ScmpArchAarch64 => Abi::Aarch64,
            Arch::ScmpArchArm => Abi::Arm,
            _ => continue,
        };
        let arm = |abi| matches!(abi, Abi::Aarch64 | Abi::Arm);
        if arm(abi) == arm(native) && !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    abis
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(CompileError::Notify);
    }
    let errno = errno.unwrap_or(EPERM);
    match u16::try_from(errno) {
        Ok(errno) => Ok(action.as_u32(Some(u32::from(errno)))),
        Err(_) => Err(CompileError::Errno(errno)),
    }
}

/// Conditions on different arguments must hold together. If any argument is named twice, each condition counts alone.
fn alternatives(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, CompileError> {
    let conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let twice = |c: &Condition| conditions.iter().filter(|other| other.index == c.index).count() > 1;
    Ok(if conditions.iter().any(twice) {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    } else {
        vec![conditions]
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, CompileError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|&index| index < 6)
        .ok_or_else(|| CompileError::Argument(arg.index()))?;
    let value = arg.value();
    let test = match arg.op() {
        Operator::ScmpCmpNe => Test::NotEqual(value),
        Operator::ScmpCmpLt => Test::Less(value),
        Operator::ScmpCmpLe => Test::LessOrEqual(value),
        Operator::ScmpCmpEq => Test::Equal(value),
        Operator::ScmpCmpGe => Test::GreaterOrEqual(value),
        Operator::ScmpCmpGt => Test::Greater(value),
        Operator::ScmpCmpMaskedEq => Test::Masked { mask: value, value: arg.value_two().unwrap_or(0) },
    };
    Ok(Condition { index, test })
}
