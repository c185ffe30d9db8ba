//! The `Content-Type` of a body that must be JSON, in the stock daemon's words (Go's `mime` package).

use crate::error::ApiError;

/// Refuses every media type but JSON's, parameters aside.
pub(crate) fn check_json(header: &str) -> Result<(), ApiError> {
    let malformed = |why: &str| ApiError::bad_request(format!("malformed Content-Type header ({header}): mime: {why}"));
    let (media_type, parameters) = header.split_once(';').unwrap_or((header, ""));
    let media_type = media_type.trim();
    if media_type.is_empty() {
        return Err(malformed("no media type"));
    }
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let slashes = media_type.split('/').count();
    if slashes > 2 || !media_type.split('/').all(is_token) {
        return Err(malformed("expected slash after first token"));
    }
    let is_parameter = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        is_token(name.trim()) && (quoted || is_token(value.trim()))
    };
    // One semicolon at the end is nothing.
    let parameters = parameters.trim();
    if !parameters.is_empty() && !parameters.split(';').all(is_parameter) {
        return Err(malformed("invalid media parameter"));
    }
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("unsupported Content-Type header ({header}): must be 'application/json'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken() {
        for header in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;"] {
            assert!(check_json(header).is_ok(), "{header}");
        }
        for (header, expected) in [
            ("", "malformed Content-Type header (): mime: no media type"),
            ("application/json;;", "malformed Content-Type header (application/json;;): mime: invalid media parameter"),
            ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        ] {
            assert_eq!(check_json(header).map_err(|error| error.message), Err(expected.to_owned()));
        }
    }
}
