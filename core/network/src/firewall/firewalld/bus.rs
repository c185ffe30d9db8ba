//! A connection to the system's D-Bus: what is needed for a few calls and signals, which a crate of that trade brings along
//! with an executor and a megabyte of code. Blocking.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{self, Argument, Malformed, Message, Method};

/// A firewall with many rules takes seconds to load them anew.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the bus is, unless the environment has it elsewhere.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// The bus itself, as a service.
pub(super) const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// The bus cannot be spoken to.
    #[error("the system's D-Bus: {0}")]
    Io(#[from] io::Error),
    /// What came was no message.
    #[error("the system's D-Bus: {0}")]
    Malformed(#[from] Malformed),
    /// It does not let us in.
    #[error("the system's D-Bus refuses us: {0}")]
    Unwelcome(String),
    /// The service refuses.
    #[error("{name}: {text}")]
    Refused {
        /// The error's name.
        name: String,
        /// What it says.
        text: String,
    },
}

/// Where the system's bus is; `None`: not on a socket with a path.
pub(super) fn address() -> Option<PathBuf> {
    let Ok(addresses) = std::env::var("DBUS_SYSTEM_BUS_ADDRESS") else { return Some(PathBuf::from(SOCKET)) };
    let paths = addresses.split(';').filter_map(|address| address.strip_prefix("unix:path="));
    paths.filter_map(|rest| rest.split(',').next()).map(PathBuf::from).next()
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// What came and is not a whole message yet.
    buffer: Vec<u8>,
}

impl Bus {
    /// Connects, and says hello.
    pub(super) fn connect(address: &Path) -> Result<Self, BusError> {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut bus = Self { stream, serial: 0, buffer: Vec::new() };
        bus.authenticate()?;
        bus.call_bus("Hello", &[])?;
        Ok(bus)
    }

    /// Who we are the bus knows from its socket.
    fn authenticate(&mut self) -> Result<(), BusError> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\n")?;
        let mut line = self.line()?;
        if line == "DATA" {
            self.stream.write_all(b"DATA\r\n")?;
            line = self.line()?;
        }
        if !line.starts_with("OK ") {
            return Err(BusError::Unwelcome(line));
        }
        Ok(self.stream.write_all(b"BEGIN\r\n")?)
    }

    fn line(&mut self) -> Result<String, BusError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend(&bytes[..count]);
                Ok(())
            }
        }
    }

    fn message(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(length) = wire::length(&self.buffer)?.filter(|length| *length <= self.buffer.len()) {
                let message = wire::read(&self.buffer[..length]);
                self.buffer.drain(..length);
                return Ok(message?);
            }
            self.fill()?;
        }
    }

    /// Calls a method and waits for its reply.
    pub(super) fn call(&mut self, method: Method<'_>, arguments: &[Argument<'_>]) -> Result<Message, BusError> {
        self.serial += 1;
        self.stream.write_all(&wire::call(self.serial, method, arguments))?;
        loop {
            let message = self.message()?;
            match message.kind {
                wire::REPLY if message.answers == self.serial => return Ok(message),
                wire::ERROR if message.answers == self.serial => {
                    let text = message.texts.into_iter().next().unwrap_or_default();
                    return Err(BusError::Refused { name: message.error, text });
                }
                // What a connection that makes calls hears besides is not for it.
                _ => {}
            }
        }
    }

    fn call_bus(&mut self, member: &str, arguments: &[Argument<'_>]) -> Result<Message, BusError> {
        self.call(Method { destination: BUS, path: BUS_PATH, interface: BUS, member }, arguments)
    }

    /// The process that made the bus; `None` where it cannot be known. firewalld's own the bus tells by a number of its process
    /// id namespace, which may be another than ours.
    pub(super) fn process(&self) -> io::Result<Option<u32>> {
        dockerd_sys::socket::peer_process(&self.stream)
    }

    /// Whether a service runs.
    pub(super) fn has(&mut self, service: &str) -> Result<bool, BusError> {
        Ok(self.call_bus("NameHasOwner", &[Argument::Text(service)])?.truth == Some(true))
    }

    /// From now on signals come that match `rule`.
    pub(super) fn subscribe(&mut self, rule: &str) -> Result<(), BusError> {
        self.call_bus("AddMatch", &[Argument::Text(rule)]).map(drop)
    }

    /// From now on nothing is called any more, and signals are waited for as long as it takes. Shutting the returned socket
    /// down ends the wait.
    pub(super) fn listen(&mut self) -> io::Result<UnixStream> {
        self.stream.set_read_timeout(None)?;
        self.stream.try_clone()
    }

    /// Waits for the next signal.
    pub(super) fn signal(&mut self) -> Result<Message, BusError> {
        loop {
            let message = self.message()?;
            if message.kind == wire::SIGNAL {
                return Ok(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A bus that lets one in, and answers each call with the next of `replies`.
    fn serve(listener: &UnixListener, replies: &[&[u8]]) {
        let (mut stream, _) = listener.accept().expect("accepted");
        let mut lines = Vec::new();
        let mut byte = [0];
        for (wanted, answer) in [("\0AUTH EXTERNAL\r\n", "DATA\r\n"), ("DATA\r\n", "OK 1234\r\n"), ("BEGIN\r\n", "")] {
            lines.clear();
            while !lines.ends_with(b"\r\n") {
                stream.read_exact(&mut byte).expect("read");
                lines.push(byte[0]);
            }
            assert_eq!(lines, wanted.as_bytes());
            stream.write_all(answer.as_bytes()).expect("written");
        }
        let mut bytes = Vec::new();
        for reply in replies {
            loop {
                let length = wire::length(&bytes).expect("a call");
                if let Some(length) = length.filter(|length| *length <= bytes.len()) {
                    bytes.drain(..length);
                    break;
                }
                stream.read_exact(&mut byte).expect("read");
                bytes.push(byte[0]);
            }
            stream.write_all(reply).expect("written");
        }
    }

    const WELCOME: &[u8] = b"l\x02\x01\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0\x01\0\0\0";
    /// A signal and, behind it, the refusal of the second call.
    const REFUSAL: &[u8] = b"l\x04\x01\x01\0\0\0\0\x02\0\0\0\x0a\0\0\0\x03\x01s\0\x01\0\0\0X\0\0\0\0\0\0\0\
        l\x03\x01\x01\x07\0\0\0\x03\0\0\0\x1f\0\0\0\x05\x01u\0\x02\0\0\0\x04\x01s\0\x03\0\0\0E.x\0\0\0\0\0\x08\x01g\0\x01s\0\0\x02\0\0\0no\0";

    #[test]
    fn lets_in_and_refuses() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bus");
        let listener = UnixListener::bind(&path).expect("bound");
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, &[WELCOME, REFUSAL]));
            let mut bus = Bus::connect(&path).expect("connected");
            let refused = bus.has("x").expect_err("refused");
            assert_eq!(refused.to_string(), "E.x: no");
            drop(bus);
        });
    }
}
