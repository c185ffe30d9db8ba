//! Whether a program needs anything at run time, read from its ELF headers (System V ABI, chapters 4 and 5), so that it is
//! known without trusting a loader's listing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Program header types.
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
/// Tags of the dynamic section.
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// An error unless `program` has neither a loader nor libraries.
pub(crate) fn ensure_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    match needs(&bytes)? {
        None => Ok(()),
        Some(what) => bail!("{} is not static: it has {what}", program.display()),
    }
}

/// What a 64-bit little-endian program needs at run time.
fn needs(bytes: &[u8]) -> Result<Option<&'static str>> {
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let (table, size, count) = (number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?);
    for index in 0..count {
        let header = table + index * size;
        match number(bytes, header, 4)? {
            PT_INTERP => return Ok(Some("a loader")),
            PT_DYNAMIC if has_library(bytes, number(bytes, header + 8, 8)?, number(bytes, header + 32, 8)?)? => {
                return Ok(Some("shared libraries"));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn has_library(bytes: &[u8], start: u64, length: u64) -> Result<bool> {
    for entry in (start..start.saturating_add(length)).step_by(16) {
        match number(bytes, entry, 8)? {
            DT_NULL => break,
            DT_NEEDED => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

fn number(bytes: &[u8], at: u64, length: usize) -> Result<u64> {
    let at = usize::try_from(at)?;
    let field = bytes.get(at..).and_then(|rest| rest.get(..length)).context("the ELF file is cut off")?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_has_a_loader() {
        let own = std::env::current_exe().unwrap();
        let error = ensure_static(&own).unwrap_err().to_string();
        assert!(error.ends_with("is not static: it has a loader"), "{error}");
    }

    #[test]
    fn headers_decide() {
        // A header, one program header, and a dynamic section with one entry.
        let elf = |kind: u8, tag: u8| {
            let mut bytes = vec![0; 64 + 56 + 16];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (bytes[32], bytes[54], bytes[56]) = (64, 56, 1);
            bytes[64] = kind;
            (bytes[64 + 8], bytes[64 + 32]) = (120, 16);
            bytes[120] = tag;
            bytes
        };
        assert_eq!(needs(&elf(1, 0)).unwrap(), None);
        assert_eq!(needs(&elf(2, 0)).unwrap(), None);
        assert_eq!(needs(&elf(2, 1)).unwrap(), Some("shared libraries"));
        assert_eq!(needs(&elf(3, 0)).unwrap(), Some("a loader"));
        assert!(needs(&elf(2, 1)[..100]).is_err() && needs(b"#!/bin/sh").is_err());
    }
}
