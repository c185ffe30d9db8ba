//! Content digests, `algorithm:hex` (OCI image-spec, descriptor.md "Digests").

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::hex;

/// A string that is not a digest we can check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest: {0:?}")]
pub struct InvalidDigest(pub String);

/// A sha256 (or sha512) content digest; valid by construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// The digest whose sha256 sum is `sum`.
    pub fn sha256(sum: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex(sum)).into())
    }

    /// The digest whose sha512 sum is `sum`.
    pub fn sha512(sum: &[u8; 64]) -> Self {
        Self(format!("sha512:{}", hex(sum)).into())
    }

    /// Parses `sha256:<64 hex>` or `sha512:<128 hex>`, lower case.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.to_owned());
        let (algorithm, sum) = text.split_once(':').ok_or_else(invalid)?;
        let digits = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(invalid()),
        };
        let ok = sum.len() == digits && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ok { Ok(Self(text.into())) } else { Err(invalid()) }
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, sum)| sum)
    }

    /// The whole text, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 hex digits, as lists show an image id.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", &self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checkable_digests_parse() {
        let good = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(Digest::parse(&good).map(|d| d.hex().len()), Ok(64));
        for bad in ["", "sha256:", "sha256:abc", "md5:00", &good.to_uppercase(), &format!("{good}0")] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
