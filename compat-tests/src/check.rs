//! Assertions as errors, which say what was found and pass through `?`.

use anyhow::{Result, ensure};

/// Whether both are the same.
pub fn equal<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<()> {
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    Ok(())
}

/// Whether `part` is in `text`.
pub fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "no {part:?} in {text:?}");
    Ok(())
}
