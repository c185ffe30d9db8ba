//! Assertions as errors, which say what was found and pass through `?`.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{LIMIT, PAUSE};

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

/// Waits until `condition` holds.
pub fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !condition() {
        ensure!(begun.elapsed() < LIMIT, "{what} did not come about");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
