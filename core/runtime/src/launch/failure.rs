//! Carrying "which step, on what, what the kernel said" out of the child without ceremony at each call.

use std::io;

use super::plan::{SetupFailure, Step};

/// Result of a step in the child.
pub(super) type Setup<T> = Result<T, SetupFailure>;

/// Adds the step and its subject to an I/O error.
pub(super) trait At<T> {
    /// The same result, its error placed at `step` on `subject`.
    fn at(self, step: Step, subject: &str) -> Setup<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step, subject: &str) -> Setup<T> {
        self.map_err(|error| SetupFailure {
            step,
            subject: subject.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            reason: describe(&error),
        })
    }
}

/// The kernel's words for an error, in lower case and without the number, as Go programs print them.
pub(crate) fn describe(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let text = error.to_string();
    let words = text.strip_suffix(&format!(" (os error {code})")).unwrap_or(&text);
    let mut chars = words.chars();
    let Some(first) = chars.next() else { return String::new() };
    first.to_lowercase().chain(chars).collect()
}
