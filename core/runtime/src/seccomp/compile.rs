//! Rules to classic BPF. The program looks at the architecture, then finds the call by binary search over *ranges* of
//! numbers with the same fate: short for the kernel to translate (which is paid at every container start), short to
//! run, and made of loads and jumps the kernel's own evaluator follows, so that native calls that are always
//! allowed skip the filter altogether.
//!
//! Code is emitted from its end to its beginning, since BPF jumps only forward: every target exists already.

use std::collections::HashMap;

use dockerd_sys::seccomp::{MAX_INSTRUCTIONS, instruction};

use super::CompileError;
use super::names::{Abi, X32_BIT};
use super::rules::{AbiRules, Clause, Condition, RET_KILL_THREAD, Rules, Test};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in the data a filter sees.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A place in the program: how many instructions lie from there to the end.
type Label = usize;

pub(super) fn compile(rules: &Rules) -> Result<Vec<u64>, CompileError> {
    let mut code = Emitter::default();
    let mut next = code.returns(RET_KILL_THREAD);
    let native_first: Vec<&AbiRules> = rules.abis.iter().filter(|abi| abi.abi != Abi::X32).collect();
    let x32 = rules.abis.iter().find(|abi| abi.abi == Abi::X32);
    for abi in native_first.into_iter().rev() {
        let mut body = code.search(abi, rules.default);
        if abi.abi == Abi::X86_64 {
            let other = match x32 {
                Some(x32) => code.search(x32, rules.default),
                None => code.returns(RET_KILL_THREAD),
            };
            body = code.jump(JUMP_GREATER_EQUAL, X32_BIT, other, body);
        }
        let mut number = code.falls_to(body, LOAD, NUMBER);
        if abi.abi.is_32_bit() {
            // Here the kernel's evaluator gives up. Following all calls of a convention that is hardly used cost a sixth of
            // every container's filter.
            number = code.falls_to(number, LOAD, ARGUMENTS);
        }
        next = code.jump(JUMP_EQUAL, abi.abi.audit(), number, next);
    }
    code.falls_to(next, LOAD, ARCHITECTURE);
    let mut program = code.reversed;
    program.reverse();
    if program.len() > MAX_INSTRUCTIONS { Err(CompileError::TooLong(program.len())) } else { Ok(program) }
}

/// What becomes of a range of numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Return(u32),
    Examine(&'a [Clause]),
}

/// The ranges, each from its first number to the next range.
fn ranges(rules: &AbiRules, default: u32) -> Vec<(u32, Fate<'_>)> {
    let base = if rules.abi == Abi::X32 { X32_BIT } else { 0 };
    let mut ranges: Vec<(u32, Fate<'_>)> = vec![(base, Fate::Return(default))];
    let mut add = |from: u32, fate| {
        if ranges.last().is_some_and(|last| last.0 == from) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.1 != fate) {
            ranges.push((from, fate));
        }
    };
    for (&number, clauses) in &rules.calls {
        let fate = match &clauses[..] {
            [clause] if clause.conditions.is_empty() => Fate::Return(clause.action),
            clauses => Fate::Examine(clauses),
        };
        add(number, fate);
        add(number + 1, Fate::Return(default));
    }
    if let Some(ceiling) = rules.ceiling {
        add(ceiling + 1, Fate::Return(Rules::TOO_NEW));
    }
    ranges
}

#[derive(Default)]
struct Emitter {
    /// The program from its last instruction to its first.
    reversed: Vec<u64>,
    /// Where each return last stood.
    returns: HashMap<u32, Label>,
}

/// A conditional jump reaches this far.
const REACH: usize = 255;

impl Emitter {
    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, k: u32) -> Label {
        self.reversed.push(instruction(code, jump_true, jump_false, k));
        self.reversed.len()
    }

    /// A return that is near enough to be jumped to.
    fn returns(&mut self, action: u32) -> Label {
        match self.returns.get(&action) {
            // Some room, for what its user emits before the jump.
            Some(&label) if self.reversed.len() - label < REACH - 32 => label,
            _ => {
                let label = self.push(RETURN, 0, 0, action);
                self.returns.insert(action, label);
                label
            }
        }
    }

    /// Makes `target` the very next instruction, if it is not already.
    fn adjacent(&mut self, target: Label) {
        if self.reversed.len() != target {
            self.push(JUMP, 0, 0, (self.reversed.len() - target) as u32);
        }
    }

    /// A straight instruction that goes on at `target`.
    fn falls_to(&mut self, target: Label, code: u16, k: u32) -> Label {
        self.adjacent(target);
        self.push(code, 0, 0, k)
    }

    /// A conditional jump.
    fn jump(&mut self, code: u16, k: u32, mut if_true: Label, mut if_false: Label) -> Label {
        // One instruction of reserve, because a trampoline for the one target moves the other farther away.
        for label in [&mut if_true, &mut if_false] {
            if self.reversed.len() - *label >= REACH {
                *label = self.push(JUMP, 0, 0, (self.reversed.len() - *label) as u32);
            }
        }
        let distance = |label: Label| (self.reversed.len() - label) as u8;
        let (jump_true, jump_false) = (distance(if_true), distance(if_false));
        self.push(code, jump_true, jump_false, k)
    }

    /// Binary search for the number that was loaded.
    fn search(&mut self, rules: &AbiRules, default: u32) -> Label {
        let ranges = ranges(rules, default);
        self.tree(&ranges, default, rules.abi.is_32_bit())
    }

    fn tree(&mut self, ranges: &[(u32, Fate<'_>)], default: u32, narrow: bool) -> Label {
        match ranges {
            [] => self.returns(default),
            [(_, Fate::Return(action))] => self.returns(*action),
            [(_, Fate::Examine(clauses))] => self.examine(clauses, default, narrow),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let upper_label = self.tree(upper, default, narrow);
                let lower_label = self.tree(lower, default, narrow);
                self.jump(JUMP_GREATER_EQUAL, upper[0].0, upper_label, lower_label)
            }
        }
    }

    fn examine(&mut self, clauses: &[Clause], default: u32, narrow: bool) -> Label {
        let mut next = self.returns(default);
        for clause in clauses.iter().rev() {
            let mut holds = self.returns(clause.action);
            for condition in clause.conditions.iter().rev() {
                holds = self.condition(condition, narrow, holds, next);
            }
            next = holds;
        }
        next
    }

    fn condition(&mut self, condition: &Condition, narrow: bool, yes: Label, no: Label) -> Label {
        let argument = Argument { offset: ARGUMENTS + 8 * condition.index, narrow };
        match condition.test {
            Test::Equal(value) => self.masked(argument, u64::MAX, value, yes, no),
            Test::NotEqual(value) => self.masked(argument, u64::MAX, value, no, yes),
            Test::Masked { mask, value } => self.masked(argument, mask, value, yes, no),
            Test::Greater(value) => self.order(argument, JUMP_GREATER, value, yes, no),
            Test::LessOrEqual(value) => self.order(argument, JUMP_GREATER, value, no, yes),
            Test::GreaterOrEqual(value) => self.order(argument, JUMP_GREATER_EQUAL, value, yes, no),
            Test::Less(value) => self.order(argument, JUMP_GREATER_EQUAL, value, no, yes),
        }
    }

    fn masked(&mut self, argument: Argument, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let low = self.masked_half(argument.low(), mask as u32, value as u32, yes, no);
        if argument.narrow {
            return low;
        }
        self.masked_half(argument.high(), (mask >> 32) as u32, (value >> 32) as u32, low, no)
    }

    fn masked_half(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        let test = self.jump(JUMP_EQUAL, value, yes, no);
        let test = if mask == u32::MAX { test } else { self.falls_to(test, AND, mask) };
        self.falls_to(test, LOAD, offset)
    }

    /// Compares the low halves by `code` if the high halves are equal, and the high halves otherwise.
    fn order(&mut self, argument: Argument, code: u16, value: u64, yes: Label, no: Label) -> Label {
        let low = self.jump(code, value as u32, yes, no);
        let low = self.falls_to(low, LOAD, argument.low());
        if argument.narrow {
            return low;
        }
        let high = (value >> 32) as u32;
        let equal = self.jump(JUMP_EQUAL, high, low, no);
        let greater = self.jump(JUMP_GREATER, high, yes, equal);
        self.falls_to(greater, LOAD, argument.high())
    }
}

/// Where an argument lies; a narrow one is its low half.
#[derive(Clone, Copy)]
struct Argument {
    offset: u32,
    narrow: bool,
}

impl Argument {
    fn low(self) -> u32 {
        self.offset + if cfg!(target_endian = "big") { 4 } else { 0 }
    }

    fn high(self) -> u32 {
        self.offset + if cfg!(target_endian = "big") { 0 } else { 4 }
    }
}
