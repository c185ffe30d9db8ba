//! The keys that leave a terminal without ending what runs on it: parsing `--detach-keys`, and finding them in input.
//! Pure.

/// What Docker takes where nothing is said: ctrl-p, ctrl-q.
const DEFAULT: [u8; 2] = [16, 17];

/// A key no terminal has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown character: '{0}'")]
pub struct UnknownKey(pub String);

/// A sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// What the terminal sends for them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Parses keys separated by commas: a character each, `ctrl-` and a letter or one of `@[\]^_`, or `DEL`. Empty text
    /// means the default.
    pub fn parse(text: &str) -> Result<Self, UnknownKey> {
        if text.is_empty() {
            return Ok(Self(DEFAULT.to_vec()));
        }
        text.split(',')
            .map(|key| code(key).ok_or_else(|| UnknownKey(key.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn code(key: &str) -> Option<u8> {
    match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
        (&[byte], _) => Some(byte),
        (b"DEL", _) => Some(127),
        (_, Some(&[letter @ (b'a'..=b'z')])) => Some(letter - b'a' + 1),
        (_, Some(&[sign @ (b'@' | b'['..=b'_')])) => Some(sign - b'@'),
        _ => None,
    }
}

/// Finds the keys in a stream of input. What may be their beginning is held back until it is known.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    /// So many of them have been seen.
    seen: usize,
}

/// What a piece of input comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// For the process.
    pub(crate) input: Vec<u8>,
    /// The keys were pressed; what comes after them is nobody's.
    pub(crate) detached: bool,
}

impl DetachFilter {
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, seen: 0 }
    }

    /// Takes the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Filtered {
        let mut input = Vec::with_capacity(piece.len() + self.seen);
        for byte in piece {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    return Filtered { input, detached: true };
                }
                continue;
            }
            // A key that breaks the sequence does not begin another, as in Docker.
            input.extend_from_slice(&self.keys[..std::mem::take(&mut self.seen)]);
            input.push(*byte);
        }
        Filtered { input, detached: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_as_docker_writes_them() {
        for (text, keys) in [
            ("", &[16, 17][..]),
            ("a", b"a"),
            ("ctrl-a,z", &[1, b'z']),
            ("ctrl-@,ctrl-[,ctrl-_,DEL", &[0, 27, 31, 127]),
        ] {
            assert_eq!(DetachKeys::parse(text), Ok(DetachKeys(keys.to_vec())), "{text}");
        }
        for text in ["ctrl-A", "ctrl-,", "ab", "ctrl-1", "\u{e9}"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sequence_over_two_pieces() {
        let mut filter = DetachFilter::new(DetachKeys::parse("").expect("default"));
        assert_eq!(filter.feed(b"ab\x10"), Filtered { input: b"ab".to_vec(), detached: false });
        assert_eq!(filter.feed(b"z\x10"), Filtered { input: b"\x10z".to_vec(), detached: false });
        assert_eq!(filter.feed(b"\x11rest"), Filtered { input: Vec::new(), detached: true });
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_input_is_cut(input in proptest::collection::vec(0_u8..4, 0..40), cut in 0_usize..40) {
            let keys = DetachKeys(vec![1, 2, 3]);
            let (one, two) = input.split_at(cut.min(input.len()));
            let mut whole = DetachFilter::new(keys.clone());
            let expected = whole.feed(&input);
            let mut pieces = DetachFilter::new(keys);
            let mut got = pieces.feed(one);
            if !got.detached {
                let rest = pieces.feed(two);
                got.input.extend(rest.input);
                got.detached = rest.detached;
            }
            prop_assert_eq!((&got, pieces.seen), (&expected, whole.seen));
            let held = &[1, 2][..whole.seen];
            prop_assert!(expected.detached || [&expected.input[..], held].concat() == input);
        }
    }
}
