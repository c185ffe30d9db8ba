//! `WWW-Authenticate` (RFC 9110, section 11.6.1): which schemes a server asks for, with their parameters. The text comes from
//! the network; everything about it is bounded, and what does not follow the grammar is left out.

/// Most challenges of one answer that are looked at.
const MOST_CHALLENGES: usize = 16;
/// Most parameters of one challenge.
const MOST_PARAMETERS: usize = 32;
/// Longest header that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

/// A way to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Name and password (RFC 7617).
    Basic,
    /// A token of the realm's server (RFC 6750).
    Bearer,
    /// Another, which is not known here.
    Other,
}

/// One challenge of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// What is asked for.
    pub(crate) scheme: Scheme,
    /// Parameters, names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The parameter of this name; the first counts.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All parameters, names in lower case.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The challenges of all `WWW-Authenticate` headers of an answer, in their order.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers {
        if header.len() <= LONGEST {
            parse_one(header, &mut challenges);
        }
    }
    challenges.truncate(MOST_CHALLENGES);
    challenges
}

fn parse_one(header: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = header;
    while challenges.len() < MOST_CHALLENGES {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        if let Some(value) = spaced.strip_prefix('=') {
            // A parameter, of the challenge before it.
            let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else { return };
            rest = after;
            if let Some(challenge) = challenges.last_mut()
                && challenge.parameters.len() < MOST_PARAMETERS
            {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
            continue;
        }
        let scheme = match word.to_ascii_lowercase().as_str() {
            "basic" => Scheme::Basic,
            "bearer" => Scheme::Bearer,
            _ => Scheme::Other,
        };
        challenges.push(Challenge { scheme, parameters: Vec::new() });
        rest = skip_token68(after, spaced);
    }
}

/// What follows a scheme's name, without the single blob of data some schemes have instead of parameters.
fn skip_token68<'a>(after: &'a str, spaced: &'a str) -> &'a str {
    if after.len() == spaced.len() {
        return after;
    }
    let end = spaced.find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/".contains(c))).unwrap_or(spaced.len());
    let tail = spaced[end..].trim_start_matches('=');
    let padded = tail.len() < spaced.len() - end;
    let ends = tail.trim_start_matches([' ', '\t']);
    let is_data = end > 0 && (ends.is_empty() || ends.starts_with(','));
    // `x=y` is a parameter and not data; `x==` and `x` alone are data, unless `x` is the next scheme's name.
    if is_data && (padded || spaced[..end].contains(['/', '+'])) { ends } else { spaced }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it; none when a quoted string does not end.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Registries write unquoted URLs too, so everything up to the comma counts.
        let end = text.find([',', ' ', '\t', '"']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(headers: &[&str]) -> Vec<String> {
        let show = |challenge: &Challenge| {
            let parameters: Vec<_> = challenge.parameters().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{:?} {}", challenge.scheme, parameters.join("|"))
        };
        parse(headers.iter().copied()).iter().map(show).collect()
    }

    #[test]
    fn headers_of_real_registries() {
        for (headers, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                ],
                vec![
                    "Bearer realm=https://auth.docker.io/token|service=registry.docker.io|scope=repository:a/b:pull,push",
                ],
            ),
            (vec![r#"Basic realm="Registry Realm""#], vec!["Basic realm=Registry Realm"]),
            (vec!["basic"], vec!["Basic "]),
            (
                vec![r#"BEARER Realm=https://x/y?z , SERVICE = "a \"b\"""#],
                vec![r#"Bearer realm=https://x/y?z|service=a "b""#],
            ),
            (
                vec![r#"Negotiate, Basic realm="x", Bearer realm="y""#],
                vec!["Other ", "Basic realm=x", "Bearer realm=y"],
            ),
            (vec![r#"Basic realm="x""#, r#"Bearer realm="y""#], vec!["Basic realm=x", "Bearer realm=y"]),
            (vec![r#"Negotiate YII/+==, Basic realm="x""#], vec!["Other ", "Basic realm=x"]),
            (vec![r#"Bearer realm="unfinished"#], vec!["Bearer "]),
            (vec![r#"realm="of nobody", Basic"#], vec!["Basic "]),
            (vec!["", ",,, ,", "\u{e9}"], vec![]),
        ] {
            assert_eq!(shown(&headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn everything_is_bounded() {
        let many = "Basic,".repeat(1000);
        assert_eq!(parse([many.as_str(), many.as_str()]).len(), MOST_CHALLENGES);
        let parameters = format!("Bearer {}", "a=b,".repeat(1000));
        assert_eq!(parse([parameters.as_str()])[0].parameters().count(), MOST_PARAMETERS);
        let long = format!("Basic realm=\"{}\"", "x".repeat(LONGEST));
        assert!(parse([long.as_str()]).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_by_the_grammar_is_read(
            values in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,20}"), 1..8)
        ) {
            let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let written: Vec<_> = values.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
            let header = format!("Bearer {}", written.join(", "));
            let read = parse([header.as_str()]);
            prop_assert_eq!(read.len(), 1);
            let read: Vec<_> = read[0].parameters().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn nothing_panics(header in ".{0,200}") {
            parse([header.as_str()]);
        }
    }
}
