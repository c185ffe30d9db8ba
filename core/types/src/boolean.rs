//! Booleans in options, as the stock daemon reads them.

/// The texts Go's `strconv.ParseBool` takes; `None` for all others.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
