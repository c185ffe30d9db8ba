//! `Link` headers (RFC 8288) as far as registries use them: where the next page of a list is.

/// The target of `rel="next"` in the headers of an answer, when there is one.
pub(crate) fn next<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    headers.into_iter().find_map(next_of)
}

fn next_of(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, parameters) = after.split_once('>')?;
        // Parameters go on to the next link; a `<` inside of quotes is not seen in practice.
        let (mine, next) = parameters.split_at(parameters.find('<').unwrap_or(parameters.len()));
        let is_next = mine.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        for (header, expected) in [
            (r#"</v2/a/tags/list?last=x&n=2>; rel="next""#, Some("/v2/a/tags/list?last=x&n=2")),
            ("<https://h/y>;rel=next", Some("https://h/y")),
            (r#"<a>; rel="prev", <b>; title="x"; REL="last Next""#, Some("b")),
            (r#"<a>; rel="prev""#, None),
            ("<a", None),
            ("", None),
        ] {
            assert_eq!(next([header]), expected, "{header}");
        }
    }
}
