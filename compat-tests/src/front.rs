//! A TLS server before a plugin's socket, for clients with a certificate: what a plugin on another host has.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::certificate::Files;
use crate::network::Network;

/// Passes on what comes by TLS. Arguments: port, certificate, key, authority of clients, socket. Says a line when it
/// listens.
const PROGRAM: &str = r#"
import socket, ssl, sys, threading
port, certificate, key, authority, path = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(authority)
context.verify_mode = ssl.CERT_REQUIRED

def pass_on(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def serve(client):
    client = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
    try:
        client.do_handshake()
    except OSError:
        # A socket that is closed with something unread takes the alert back.
        socket.socket.shutdown(client, socket.SHUT_WR)
        while socket.socket.recv(client, 65536):
            pass
        return
    plugin = socket.socket(socket.AF_UNIX)
    plugin.connect(path)
    threading.Thread(target=pass_on, args=(plugin, client), daemon=True).start()
    pass_on(client, plugin)

listener = socket.create_server(("127.0.0.1", int(port)))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// The server; ends when dropped.
#[derive(Debug)]
pub struct Front(Child);

impl Front {
    /// On a port of 127.0.0.1 in `network`, before the socket at `plugin`. `files` are its own, `authority` is who signed its
    /// clients'.
    pub fn start(network: &Network, port: u16, files: &Files, authority: &Path, plugin: &Path) -> Result<Self> {
        let mut command = network.command("python3");
        command.args(["-c", PROGRAM, &port.to_string()]);
        command.args([&files.certificate, &files.key]).args([authority, plugin]);
        let mut front = Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("python3")?);
        let mut line = String::new();
        BufReader::new(front.0.stdout.as_mut().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the TLS server does not listen");
        Ok(front)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
