//! Says where a JSON document breaks, in the words of the stock daemon's parser.
//!
//! serde_json is the parser; this scanner only runs when it refuses, to give the message people search for.

use serde_json::Value;

/// How deep values may nest: as deep as serde_json reads them. The stock parser takes more, but nobody's file has it.
const MAX_DEPTH: usize = 128;

/// The first syntax error of `text`, or `None` when the document is well formed.
pub fn syntax_error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0, depth: 0 };
    scanner.document().err()
}

/// What Go's decoder calls a value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

type Step = Result<(), String>;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Scanner<'_> {
    fn document(&mut self) -> Step {
        self.value()?;
        self.space();
        if self.at < self.text.len() { Err(self.invalid("after top-level value")) } else { Ok(()) }
    }

    fn value(&mut self) -> Step {
        self.space();
        match self.peek()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.invalid("looking for beginning of value")),
        }
    }

    fn nested(&mut self, what: fn(&mut Self) -> Step) -> Step {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.invalid("exceeded max depth"));
        }
        what(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self) -> Step {
        self.at += 1;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek()? != b'"' {
                return Err(self.invalid("looking for beginning of object key string"));
            }
            self.string()?;
            self.space();
            if self.peek()? != b':' {
                return Err(self.invalid("after object key"));
            }
            self.at += 1;
            self.value()?;
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.invalid("after object key:value pair")),
            }
        }
    }

    fn array(&mut self) -> Step {
        self.at += 1;
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value()?;
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.invalid("after array element")),
            }
        }
    }

    fn string(&mut self) -> Step {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                0..=0x1f => return Err(self.invalid("in string literal")),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Step {
        self.at += 1;
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek()?.is_ascii_hexdigit() {
                        return Err(self.invalid("in \\u hexadecimal character escape"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.invalid("in string escape code")),
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Step {
        for (i, expected) in word.bytes().enumerate() {
            let found = self.peek()?;
            if found != expected {
                debug_assert!(i > 0, "the first letter was looked at already");
                return Err(self.invalid(&format!("in literal {word} (expecting '{}')", char::from(expected))));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Step {
        if self.peek()? == b'-' {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return Err(self.invalid("in numeric literal"));
            }
        }
        if self.peek()? == b'0' {
            self.at += 1
        } else {
            self.digits()
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return Err(self.invalid("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return Err(self.invalid("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.text.get(self.at).copied().ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn invalid(&self, context: &str) -> String {
        let shown = match self.text[self.at] {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            byte => format!("'{}'", char::from(byte).escape_default()),
        };
        format!("invalid character {shown} {context}")
    }
}

#[cfg(test)]
mod tests {
    use super::syntax_error;

    #[test]
    fn deep_documents_do_not_exhaust_the_stack() {
        for open in ["[", "{\"a\":"] {
            let error = syntax_error(open.repeat(1 << 20).as_bytes()).unwrap();
            assert!(error.ends_with("exceeded max depth"), "{error}");
        }
        assert_eq!(syntax_error(format!("{}{}", "[".repeat(128), "]".repeat(128)).as_bytes()), None);
    }

    #[test]
    fn speaks_as_the_stock_parser() {
        for (text, expected) in [
            ("{", "unexpected end of JSON input"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"debug":true} x"#, "invalid character 'x' after top-level value"),
            (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
            ("{,}", "invalid character ',' looking for beginning of object key string"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
            (r#"{"a":1 "b":2}"#, "invalid character '\"' after object key:value pair"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ] {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn takes_what_is_well_formed() {
        for text in ["{}", " [1, -2.5e+3, \"a\\u00e9\\n\", null, true, {\"x\": []}] ", "0"] {
            assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
        }
    }
}
