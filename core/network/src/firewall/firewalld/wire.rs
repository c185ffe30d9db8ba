//! Messages of D-Bus: calls as this daemon makes them, and of replies and signals what it looks at. Pure.
//!
//! ```text
//! byte order, kind, flags, version 1 | length of the body | serial | array of fields, padded to 8 | body
//! ```

/// What a call's reply is.
pub(super) const REPLY: u8 = 2;
/// What a refused call's reply is.
pub(super) const ERROR: u8 = 3;
/// What nobody asked for.
pub(super) const SIGNAL: u8 = 4;

const CALL: u8 = 1;
/// A service that does not run is not to be started for us.
const NO_AUTO_START: u8 = 2;
const VERSION: u8 = 1;
const LITTLE: u8 = b'l';
const BIG: u8 = b'B';
/// Up to the length of the fields, and with it.
const HEAD: usize = 16;
/// No service we speak to has more to say.
const MOST: usize = 1 << 20;

/// Kinds of fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// A method, and whose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    /// `a{sv}`
    Settings(&'a [(&'a str, Setting<'a>)]),
}

/// A value of any type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting<'a> {
    Text(&'a str),
    Texts(&'a [&'a str]),
}

#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: usize) {
        self.align(4);
        // Bounded by what our own constants and names of links amount to.
        self.0.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// What `write` adds, aligned, behind its length.
    fn array(&mut self, align: usize, write: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        write(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn argument(&mut self, argument: Argument<'_>) {
        match argument {
            Argument::Text(text) => self.text(text),
            Argument::Settings(settings) => self.array(8, |out| {
                for (name, value) in settings {
                    out.align(8);
                    out.text(name);
                    out.setting(*value);
                }
            }),
        }
    }

    fn setting(&mut self, setting: Setting<'_>) {
        match setting {
            Setting::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Setting::Texts(texts) => {
                self.signature("as");
                self.array(4, |out| texts.iter().for_each(|text| out.text(text)));
            }
        }
    }

    fn field(&mut self, kind: u8, signature: &str, text: &str) {
        self.align(8);
        self.0.push(kind);
        self.signature(signature);
        if signature == "g" { self.signature(text) } else { self.text(text) }
    }
}

/// A call as it is sent.
pub(super) fn call(serial: u32, method: Method<'_>, arguments: &[Argument<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|argument| body.argument(*argument));
    let of = |argument: &Argument<'_>| match argument {
        Argument::Text(_) => "s",
        Argument::Settings(_) => "a{sv}",
    };
    let signature: String = arguments.iter().map(of).collect();
    let mut out = Writer(vec![LITTLE, CALL, NO_AUTO_START, VERSION]);
    out.number(body.0.len());
    out.0.extend(serial.to_le_bytes());
    out.array(8, |out| {
        out.field(field::PATH, "o", method.path);
        out.field(field::DESTINATION, "s", method.destination);
        out.field(field::INTERFACE, "s", method.interface);
        out.field(field::MEMBER, "s", method.member);
        if !signature.is_empty() {
            out.field(field::SIGNATURE, "g", &signature);
        }
    });
    out.align(8);
    out.0.extend(body.0);
    out.0
}

/// What came, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    /// Which call it answers.
    pub(super) answers: u32,
    /// Which signal.
    pub(super) member: String,
    /// Which error.
    pub(super) error: String,
    /// The leading strings of the body, those of a list among them.
    pub(super) texts: Vec<String>,
    /// The body, where it is one truth value.
    pub(super) truth: Option<bool>,
}

/// Not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a malformed message")]
pub(super) struct Malformed;

#[derive(Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.number()?).ok().filter(|length| *length <= MOST).ok_or(Malformed)
    }

    fn ended(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_| Malformed)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.length()?;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = self.byte()?;
        self.ended(length.into())
    }
}

/// The length of the message that `bytes` begin with; `None`: too few are there to tell.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if bytes.len() < HEAD {
        return Ok(None);
    }
    let mut reader = Reader { bytes, at: 4, big: is_big(bytes)? };
    let body = reader.length()?;
    reader.number()?;
    let fields = reader.length()?;
    Ok(Some((HEAD + fields).next_multiple_of(8) + body))
}

fn is_big(bytes: &[u8]) -> Result<bool, Malformed> {
    match bytes.first() {
        Some(&LITTLE) => Ok(false),
        Some(&BIG) => Ok(true),
        _ => Err(Malformed),
    }
}

/// Reads a whole message.
pub(super) fn read(bytes: &[u8]) -> Result<Message, Malformed> {
    let mut reader = Reader { bytes, at: 1, big: is_big(bytes)? };
    let mut message = Message { kind: reader.byte()?, ..Message::default() };
    reader.at = HEAD - 4;
    let end = reader.length()? + HEAD;
    let mut signature = String::new();
    while reader.at < end {
        reader.align(8);
        let kind = reader.byte()?;
        match reader.signature()?.as_str() {
            "s" | "o" => {
                let text = reader.text()?;
                match kind {
                    field::MEMBER => message.member = text,
                    field::ERROR_NAME => message.error = text,
                    _ => {}
                }
            }
            "g" => {
                let text = reader.signature()?;
                if kind == field::SIGNATURE {
                    signature = text;
                }
            }
            "u" => {
                let number = reader.number()?;
                if kind == field::REPLY_SERIAL {
                    message.answers = number;
                }
            }
            _ => return Err(Malformed),
        }
    }
    reader.align(8);
    match signature.as_str() {
        "b" => message.truth = Some(reader.number()? != 0),
        "as" => {
            let end = reader.length()? + reader.at;
            while reader.at < end {
                message.texts.push(reader.text()?);
            }
        }
        other => {
            for _ in other.chars().take_while(|kind| *kind == 's') {
                message.texts.push(reader.text()?);
            }
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHOD: Method<'_> = Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "AddMatch",
    };

    #[test]
    fn a_call_as_the_specification_has_it() {
        let bytes = call(7, METHOD, &[Argument::Text("ab")]);
        assert_eq!(&bytes[..16], [b'l', 1, 2, 1, 7, 0, 0, 0, 7, 0, 0, 0, 127, 0, 0, 0]);
        assert_eq!(&bytes[bytes.len() - 7..], [2, 0, 0, 0, b'a', b'b', 0]);
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        let message = read(&bytes).expect("read");
        assert_eq!((message.kind, message.member.as_str()), (CALL, "AddMatch"));
        assert_eq!(message.texts, ["ab"]);
    }

    #[test]
    fn settings_are_aligned() {
        let settings = [("version", Setting::Text("1.0")), ("zones", Setting::Texts(&["ANY", "x"]))];
        let mut out = Writer::default();
        out.argument(Argument::Settings(&settings));
        let wanted = b"\x3a\0\0\0\0\0\0\0\x07\0\0\0version\0\x01s\0\0\x03\0\0\x001.0\0\
                       \x05\0\0\0zones\0\x02as\0\0\0\x0e\0\0\0\x03\0\0\0ANY\0\x01\0\0\0x\0";
        assert_eq!(out.0, wanted);
    }

    #[test]
    fn replies_of_either_byte_order() {
        let head = |order: u8, numbers: [u32; 3]| {
            let bytes = numbers.map(|number| if order == BIG { number.to_be_bytes() } else { number.to_le_bytes() });
            [&[order, REPLY, 1, 1], bytes.as_flattened()].concat()
        };
        let mut big = head(BIG, [4, 1, 15]);
        big.extend(b"\x05\x01u\0\0\0\0\x09\x08\x01g\0\x01b\0\0\0\0\0\x01");
        assert_eq!(length(&big), Ok(Some(big.len())));
        let message = read(&big).expect("read");
        assert_eq!((message.answers, message.truth), (9, Some(true)));
        let mut little = head(LITTLE, [14, 1, 8]);
        little.extend(b"\x08\x01g\0\x02as\0\x0a\0\0\0\x01\0\0\0a\0\0\0\0\0\0\0");
        assert_eq!(read(&little), Err(Malformed), "a list that ends within a string");
    }

    proptest! {
        #[test]
        fn odd_bytes_do_no_harm(order in prop_oneof![Just(LITTLE), Just(BIG)], rest: Vec<u8>) {
            let bytes = [vec![order], rest].concat();
            let _ = length(&bytes);
            let _ = read(&bytes);
        }

        #[test]
        fn texts_come_back(texts in proptest::collection::vec("[a-z]{0,9}", 0..4)) {
            let arguments: Vec<Argument<'_>> = texts.iter().map(|text| Argument::Text(text)).collect();
            let bytes = call(1, METHOD, &arguments);
            prop_assert_eq!(length(&bytes), Ok(Some(bytes.len())));
            prop_assert_eq!(read(&bytes).map(|message| message.texts), Ok(texts));
        }
    }
}
