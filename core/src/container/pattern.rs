//! The part of regular expressions that name filters use: literals, `.`, `*`, `+`, `?`, `[...]`, `^`, `$`, `|` and
//! groups without memory. Small, linear in the text for the patterns people write, and without a dependency.

/// Whether `pattern` is found anywhere in `text`. A pattern that cannot be read matches only itself.
pub(crate) fn is_match(pattern: &str, text: &str) -> bool {
    let Some(expression) = Parser::parse(pattern) else { return text.contains(pattern) };
    let chars: Vec<char> = text.chars().collect();
    (0..=chars.len()).any(|start| !ends(&expression, &chars, vec![start]).is_empty())
}

#[derive(Debug)]
enum Node {
    /// One character out of a set.
    One(Set),
    Begin,
    End,
    Group(Vec<Vec<Node>>),
    Repeat {
        node: Box<Node>,
        min: usize,
        max: usize,
    },
}

#[derive(Debug)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != self.negated
    }
}

/// Longest repetition followed; names are shorter.
const MOST: usize = 256;
/// Deepest nesting read.
const DEEPEST: usize = 16;

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn parse(pattern: &'a str) -> Option<Vec<Vec<Node>>> {
        let mut parser = Self { rest: pattern.chars().peekable(), depth: 0 };
        let out = parser.alternatives()?;
        parser.rest.peek().is_none().then_some(out)
    }

    fn alternatives(&mut self) -> Option<Vec<Vec<Node>>> {
        let mut out = vec![Vec::new()];
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ')' => break,
                '|' => {
                    self.rest.next();
                    out.push(Vec::new());
                }
                _ => {
                    let node = self.repeated()?;
                    out.last_mut().expect("never empty").push(node);
                }
            }
        }
        Some(out)
    }

    fn repeated(&mut self) -> Option<Node> {
        let node = self.atom()?;
        let (min, max) = match self.rest.peek() {
            Some('*') => (0, MOST),
            Some('+') => (1, MOST),
            Some('?') => (0, 1),
            _ => return Some(node),
        };
        self.rest.next();
        Some(Node::Repeat { node: Box::new(node), min, max })
    }

    fn atom(&mut self) -> Option<Node> {
        let one = |c| Node::One(Set { negated: false, ranges: vec![(c, c)] });
        Some(match self.rest.next()? {
            '^' => Node::Begin,
            '$' => Node::End,
            '.' => Node::One(Set { negated: true, ranges: Vec::new() }),
            '[' => Node::One(self.set()?),
            '(' => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return None;
                }
                if self.rest.clone().take(2).eq("?:".chars()) {
                    self.rest.nth(1);
                }
                let inner = self.alternatives()?;
                self.depth -= 1;
                (self.rest.next() == Some(')')).then_some(Node::Group(inner))?
            }
            '\\' => match self.rest.next()? {
                'd' => Node::One(Set { negated: false, ranges: vec![('0', '9')] }),
                'w' => Node::One(Set { negated: false, ranges: vec![('0', '9'), ('a', 'z'), ('A', 'Z'), ('_', '_')] }),
                c if c.is_ascii_alphanumeric() => return None,
                c => one(c),
            },
            '*' | '+' | '?' => return None,
            c => one(c),
        })
    }

    fn set(&mut self) -> Option<Set> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let first = match self.rest.next()? {
                ']' if !ranges.is_empty() => return Some(Set { negated, ranges }),
                '\\' => self.rest.next()?,
                c => c,
            };
            let mut last = first;
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                self.rest.next();
                last = self.rest.next()?;
            }
            ranges.push((first, last));
        }
    }
}

/// All places a match can end that begins at one of `starts`.
fn ends(alternatives: &[Vec<Node>], text: &[char], starts: Vec<usize>) -> Vec<usize> {
    let mut out = Vec::new();
    for sequence in alternatives {
        let mut at = starts.clone();
        for node in sequence {
            at = step(node, text, at);
        }
        out.extend(at);
    }
    unique(out)
}

fn step(node: &Node, text: &[char], starts: Vec<usize>) -> Vec<usize> {
    match node {
        Node::One(set) => {
            starts.into_iter().filter(|at| text.get(*at).is_some_and(|c| set.has(*c))).map(|at| at + 1).collect()
        }
        Node::Begin => starts.into_iter().filter(|at| *at == 0).collect(),
        Node::End => starts.into_iter().filter(|at| *at == text.len()).collect(),
        Node::Group(inner) => ends(inner, text, starts),
        Node::Repeat { node, min, max } => {
            let mut now = starts;
            let mut out = if *min == 0 { now.clone() } else { Vec::new() };
            for count in 1..=*max {
                now = step(node, text, now);
                now.retain(|at| !out.contains(at));
                if now.is_empty() {
                    break;
                }
                if count >= *min {
                    out.extend(&now);
                }
            }
            unique(out)
        }
    }
}

fn unique(mut places: Vec<usize>) -> Vec<usize> {
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        let cases = [
            ("web", "my-web-1", true),
            ("^/web$", "/web", true),
            ("^web$", "web-1", false),
            ("^/?(?:a|b)_[0-9]+$", "b_12", true),
            ("w.b", "web", true),
            ("x*y", "y", true),
            ("[^a]b", "ab", false),
            ("a\\.b", "axb", false),
            ("", "anything", true),
            ("(", "a(b", true),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(is_match(pattern, text), want, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends_in_time(pattern in "[a-c.*+?()|\\[\\]^$\\\\-]{0,24}", text in "[a-c]{0,24}") {
            let _ = is_match(&pattern, &text);
        }

        #[test]
        fn literals_are_contained(text in "[a-z0-9]{1,20}", from in 0usize..20, len in 1usize..20) {
            let from = from.min(text.len() - 1);
            let part = &text[from..(from + len).min(text.len())];
            prop_assert!(is_match(part, &text));
        }
    }
}
