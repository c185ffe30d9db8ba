//! What fills generated files: reproducible numbers, text of lines like those of source code, which gzip makes a third or less
//! of, as of Python's library (a 3.4th), and bytes like those of programs, which it makes more than a third of, as of `/usr/bin`
//! (a 2.7th).

/// Words of the vocabulary that identifiers are made of.
const SYLLABLES: [&str; 32] = [
    "get", "set", "node", "path", "index", "value", "stream", "buffer", "parse", "token", "error", "async", "module",
    "resolve", "config", "option", "default", "length", "object", "array", "string", "result", "handler", "event",
    "state", "cache", "type", "name", "match", "range", "loader", "query",
];
/// Beginnings and ends of lines.
const FRAMES: [(&str, &str); 16] = [
    ("  const ", " = require('"),
    ("  return this.", ".call(this, "),
    ("    if (typeof ", " !== 'undefined' && "),
    ("exports.", " = function ("),
    ("  // The ", " is kept until the caller asks for "),
    ("    throw new TypeError('Expected ", " to be an instance of "),
    (" * @param {Object} ", " what is known about "),
    ("  for (let i = 0; i < ", ".length; i++) "),
    ("        self._", " = options."),
    ("  \"", "\": \"^"),
    ("export default class ", " extends "),
    ("    module.exports.", " = void 0, "),
    ("  case ", ": return "),
    ("  it('returns the ", " when given "),
    ("    await ", ".then(("),
    ("  },\n  ", ": {\n    "),
];
/// Different lines before they repeat with other numbers.
const LINES: usize = 1 << 13;
/// Different runs of instructions, and how many there are in one.
const CODES: usize = 1 << 11;
const RUN: usize = 6;
/// Letters of a name that occurs once.
const NAME: usize = 14;

/// xorshift64*: reproducible and good enough for filling files.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed` only.
    pub fn new(seed: u64) -> Self {
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() >> 32) as usize % bound
    }

    /// A number below `bound`, small ones far more often, as words are distributed in a text.
    fn skewed(&mut self, bound: usize) -> usize {
        let uniform = (self.number() >> 40) as f64 / (1_u64 << 24) as f64;
        ((uniform * uniform * uniform) * bound as f64) as usize
    }

    /// A size in bytes: half of them are below `median`, the logarithm is normally distributed with `sigma`, as sizes of
    /// files in real trees are. At most `most`.
    pub fn size(&mut self, median: f64, sigma: f64, most: usize) -> usize {
        // The sum of twelve uniform numbers is close to normal, and the same on every machine.
        let sum: f64 = (0..12).map(|_| (self.number() >> 40) as f64 / (1_u64 << 24) as f64).sum();
        ((median * ((sum - 6.0) * sigma).exp()) as usize).min(most)
    }
}

/// A source of contents.
#[derive(Debug)]
pub struct Filler {
    random: Random,
    lines: Vec<String>,
    codes: Vec<Vec<u8>>,
}

impl Filler {
    /// Contents that depend on `seed` only.
    pub fn new(seed: u64) -> Self {
        // All fillers have one vocabulary.
        let mut random = Random::new(1);
        let lines = (0..LINES).map(|_| line(&mut random)).collect();
        let codes = (0..CODES).map(|_| (0..RUN).flat_map(|_| code(&mut random)).collect()).collect();
        Self { random: Random::new(seed), lines, codes }
    }

    /// Numbers from the same source.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Appends `length` bytes that gzip makes a 3.4th of.
    pub fn text(&mut self, out: &mut Vec<u8>, length: usize) {
        let end = out.len() + length;
        while out.len() < end {
            let line = self.random.skewed(LINES);
            out.extend_from_slice(self.lines[line].as_bytes());
            let number = self.random.number();
            out.extend_from_slice(SYLLABLES[(number >> 59) as usize].as_bytes());
            out.push(b'A' + (number >> 54 & 15) as u8);
            out.extend_from_slice(SYLLABLES[(number >> 49 & 31) as usize].as_bytes());
            if number & 1 == 0 {
                out.extend_from_slice(&[b'0' + (number >> 40 & 7) as u8, b'0' + (number >> 36 & 7) as u8]);
            }
            // A name that is not seen again.
            out.extend((0..NAME).map(|_| b'a' + self.random.skewed(26) as u8));
            out.extend_from_slice(b");\n");
        }
        out.truncate(end);
    }

    /// Appends `length` bytes that gzip makes a 2.7th of.
    pub fn binary(&mut self, out: &mut Vec<u8>, length: usize) {
        let end = out.len() + length;
        while out.len() < end {
            let code = self.random.skewed(CODES);
            out.extend_from_slice(&self.codes[code]);
            let number = self.random.number();
            match number >> 60 {
                // A displacement, near or far.
                0..=3 => out.extend_from_slice(&[(number >> 8) as u8, 0, 0, 0]),
                4..=7 => out.extend_from_slice(&[(number >> 8) as u8, (number >> 16) as u8 & 0x3f, 0xff, 0xff]),
                _ => out.push((number >> 8) as u8 & 0x7f),
            }
        }
        out.truncate(end);
    }
}

fn word(random: &mut Random) -> String {
    let (first, second) = (SYLLABLES[random.skewed(32)], SYLLABLES[random.skewed(32)]);
    match random.below(3) {
        0 => first.to_owned(),
        1 => format!("{first}_{second}"),
        _ => format!("{first}{}{}", second[..1].to_uppercase(), &second[1..]),
    }
}

fn line(random: &mut Random) -> String {
    let (begin, middle) = FRAMES[random.below(FRAMES.len())];
    format!("{begin}{}{middle}{}", word(random), word(random))
}

fn code(random: &mut Random) -> Vec<u8> {
    const PREFIXES: [&[u8]; 8] = [
        &[0x48, 0x8b],
        &[0x48, 0x89],
        &[0xe8],
        &[0x0f, 0xb6],
        &[0x48, 0x8d],
        &[0x41],
        &[0xc3, 0x66, 0x90],
        &[0x85, 0xc0],
    ];
    let mut code = PREFIXES[random.skewed(8)].to_vec();
    code.extend((0..random.below(3)).map(|_| random.number() as u8));
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn times(fill: impl Fn(&mut Filler, &mut Vec<u8>)) -> f64 {
        let mut plain = Vec::new();
        fill(&mut Filler::new(5), &mut plain);
        assert_eq!(plain.len(), 1 << 20);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
        gzip.write_all(&plain).unwrap();
        plain.len() as f64 / gzip.finish().unwrap().len() as f64
    }

    #[test]
    fn text_and_binary_compress_as_they_say() {
        let text = times(|filler, out| filler.text(out, 1 << 20));
        let binary = times(|filler, out| filler.binary(out, 1 << 20));
        assert!((3.2..3.6).contains(&text), "text by {text}");
        assert!((2.5..2.9).contains(&binary), "binary by {binary}");
    }

    #[test]
    fn sizes_have_their_median() {
        let mut random = Random::new(3);
        let mut sizes: Vec<usize> = (0..10_000).map(|_| random.size(2000.0, 1.5, 1 << 21)).collect();
        sizes.sort_unstable();
        assert!((1800..2200).contains(&sizes[5000]), "{}", sizes[5000]);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((5000..7500).contains(&mean), "{mean}");
    }
}
