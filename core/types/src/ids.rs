//! Identifiers: 64 lower-case hex digits, shown to people as their first 12. Cheap to clone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that should have been an id and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: {0:?} (want 64 lower-case hex digits)")]
pub struct InvalidId(pub String);

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id made of these random bytes. Ids whose first 12 digits are all decimal are refused with `None`,
            /// because they could be taken for a number (Docker draws again in that case).
            pub fn from_random(bytes: [u8; 32]) -> Option<Self> {
                let text = hex(&bytes);
                (!text.bytes().take(12).all(|b| b.is_ascii_digit())).then(|| Self(text.into()))
            }

            /// Parses 64 lower-case hex digits.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let ok = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if ok { Ok(Self(text.into())) } else { Err(InvalidId(text.to_owned())) }
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, as lists show it.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Names a container.
    ContainerId
);
hex_id!(
    /// Names one exec inside a container.
    ExecId
);
hex_id!(
    /// Names a network.
    NetworkId
);
hex_id!(
    /// Names one container's attachment to one network.
    EndpointId
);

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_digit_prefixes_are_drawn_again() {
        assert_eq!(ContainerId::from_random([0x11; 32]), None);
        assert_eq!(
            ContainerId::from_random([0xab; 32]).map(|id| id.short().to_owned()),
            Some("abababababab".to_owned())
        );
    }

    #[test]
    fn parse_refuses_other_shapes() {
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad}");
        }
        assert!(ContainerId::parse(&"a".repeat(64)).is_ok());
    }
}
