//! Runs fuzz targets on a stable toolchain, inside ordinary tests: every committed seed as it is, then seeds changed at
//! random. Reproducible, finds only shallow mistakes and keeps the targets themselves from rotting; the real search is
//! `cargo xtask fuzz`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Changes to one seed at a time.
const MOST_CHANGES: u64 = 6;
/// Numbers at which things break.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'"', b'/'];

/// Calls `target` with all seeds of `name` and with `rounds` mutations of them. An input at which it panics is named.
///
/// # Panics
///
/// When there are no seeds, and as `target` does.
pub fn run(name: &str, rounds: usize, target: fn(&[u8])) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "no seeds of {name}");
    for seed in &seeds {
        call(target, seed);
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..rounds {
        let mut input = random.choice(&seeds).clone();
        for _ in 0..=random.below(MOST_CHANGES) {
            change(&mut input, &seeds, &mut random);
        }
        call(target, &input);
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // The order of a directory is its file system's.
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn call(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        // For the person who reads the failed test.
        eprintln!("input of {} bytes: {}", input.len(), input.escape_ascii());
        resume_unwind(panic);
    }
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.index(input.len() + 1);
    match random.below(8) {
        0 => input.truncate(at),
        1 => input.insert(at, random.byte()),
        2 => {
            // A piece of another seed, or of this one.
            let other = random.choice(seeds);
            let from = random.index(other.len() + 1);
            let until = from + random.index((other.len() - from).min(64) + 1);
            input.splice(at..at, other[from..until].iter().copied());
        }
        3 => {
            let until = at + random.index((input.len() - at).min(64) + 1);
            input.drain(at..until);
        }
        4 if at < input.len() => input[at] ^= 1 << random.below(8),
        5 if at < input.len() => input[at] = EDGES[random.index(EDGES.len())],
        6 if at < input.len() => input[at] = random.byte(),
        7 if at < input.len() => input[at] = input[at].wrapping_add(1),
        _ => {}
    }
}

/// xorshift64*: the same inputs each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn choice<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_differ_and_are_reproducible() {
        let seeds = vec![b"{\"a\":[1,2,3]}".to_vec(), Vec::new()];
        let all = || {
            let mut random = Random(1);
            let mut inputs = Vec::new();
            for _ in 0..500 {
                let mut input = random.choice(&seeds).clone();
                change(&mut input, &seeds, &mut random);
                inputs.push(input);
            }
            inputs
        };
        let (first, second) = (all(), all());
        assert_eq!(first, second);
        let different: std::collections::BTreeSet<_> = first.into_iter().collect();
        assert!(different.len() > 100, "{}", different.len());
    }
}
