//! A plugin of a test's own: an HTTP server on a socket where the daemon looks for plugins. It is a network driver that
//! makes real links in the daemon's network namespace, which all stand on one, and gives addresses. It remembers what it
//! was asked and what it has given, and answers wrongly where a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::host::{Host, Kind};
use crate::network::Network;
use crate::{LIMIT, PAUSE};

/// Where daemons look for sockets of plugins.
const SOCKETS: &str = "/run/docker/plugins";

/// What a plugin does instead of what is right.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Does it, and answers what is right but for these members.
    With(Value),
    /// Answers this instead, and does nothing.
    Json(Value),
    /// Answers this status and text, and does nothing.
    Text(u16, String),
    /// Does it, but answers late.
    Late(Duration),
    /// Hangs up.
    HangUp,
    /// Answers without an end.
    Endless,
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Call {
    /// `NetworkDriver.Join`.
    pub method: String,
    /// The request; null where there was none.
    pub request: Value,
}

#[derive(Debug, Default)]
struct State {
    replies: BTreeMap<String, Reply>,
    calls: Vec<Call>,
    /// What was given and not taken back, as texts.
    given: BTreeSet<String>,
    /// Links that were made, by endpoint.
    links: BTreeMap<String, String>,
    /// Links that were not there when they were to be taken away.
    lost: Vec<String>,
    connections: Vec<UnixStream>,
    next: u32,
}

/// A plugin.
#[derive(Debug)]
pub struct Plugin {
    name: String,
    socket: PathBuf,
    serving: Option<Serving>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    network: Network,
    /// What the links it makes stand on.
    parent: String,
    /// Third part of the addresses it gives.
    subnet: u8,
}

/// A thread that takes connections until its socket is removed.
#[derive(Debug)]
struct Serving {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Plugin {
    /// A plugin of that name beside the daemon; `subnet` is the third part of the addresses it gives, and nobody else's.
    pub fn start(host: &Host, name: &str, subnet: u8) -> Result<Self> {
        // Ours see the machine's files, whichever of them asks.
        let dir = Path::new(SOCKETS);
        let dir = if host.kind == Kind::Ours { dir.to_owned() } else { host.path(dir) };
        let socket = dir.join(format!("{name}.sock"));
        let inner =
            Inner { state: Mutex::default(), network: Network::of(host)?, parent: format!("plug{subnet}"), subnet };
        let mut plugin = Self { name: name.to_owned(), socket, serving: None, inner: Arc::new(inner) };
        let (parent, other) = (&plugin.inner.parent, format!("plugo{subnet}"));
        plugin.ip(&format!("link add {parent} type veth peer name {other}"))?;
        plugin.ip(&format!("link set {parent} up"))?;
        plugin.ip(&format!("link set {other} up"))?;
        plugin.come_back()?;
        Ok(plugin)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its socket, as this process reaches it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The gateway of its network.
    pub fn gateway(&self) -> String {
        format!("10.240.{}.1", self.inner.subnet)
    }

    /// What it does from now on when it is asked for `method`.
    pub fn set(&self, method: &str, reply: Reply) {
        self.state().replies.insert(method.to_owned(), reply);
    }

    /// It does what is right again.
    pub fn behave(&self) {
        self.state().replies.clear();
    }

    /// What it was asked since the last time.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// The same, by their names alone and without questions that change nothing.
    pub fn methods(&self) -> Vec<String> {
        let asks = ["Plugin.Activate", "NetworkDriver.EndpointOperInfo", "IpamDriver.GetDefaultAddressSpaces"];
        let changes = |call: &Call| !asks.contains(&call.method.as_str()) && !call.method.ends_with("GetCapabilities");
        self.calls().into_iter().filter(changes).map(|call| call.method).collect()
    }

    /// What it has given and not got back.
    pub fn given(&self) -> BTreeSet<String> {
        self.state().given.clone()
    }

    /// Waits until what it has given is as wanted.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&BTreeSet<String>) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !wanted(&self.given()) {
            ensure!(begun.elapsed() < LIMIT, "{what}: still {:?}", self.given());
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until it has got back everything, with the links it made.
    pub fn has_everything_back(&self) -> Result<()> {
        self.wait_until("given back", BTreeSet::is_empty)?;
        let lost = self.lost();
        let links = self.state().links.clone();
        ensure!(links.is_empty() && lost.is_empty(), "left: {links:?}, lost: {lost:?}");
        Ok(())
    }

    /// Links that were not there when it took them away; told once.
    pub fn lost(&self) -> Vec<String> {
        std::mem::take(&mut self.state().lost)
    }

    /// It goes away, with its socket.
    pub fn go_away(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        if let Some(Serving { stop, thread }) = self.serving.take() {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let _ = thread.join();
        }
        for connection in self.state().connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// It is there again, and knows what it knew.
    pub fn come_back(&mut self) -> Result<()> {
        let _ = std::fs::remove_file(&self.socket);
        let listener = self.bind().with_context(|| self.socket.display().to_string())?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (inner, stopped) = (self.inner.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let inner = inner.clone();
                        inner.state().connections.extend(stream.try_clone());
                        std::thread::spawn(move || serve(&inner, stream));
                    }
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
        self.serving = Some(Serving { stop, thread });
        Ok(())
    }

    /// Others may take the directory away this moment, as they were the last in it.
    fn bind(&self) -> std::io::Result<UnixListener> {
        let begun = Instant::now();
        loop {
            if let Some(dir) = self.socket.parent() {
                std::fs::create_dir_all(dir)?;
            }
            match UnixListener::bind(&self.socket) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && begun.elapsed() < LIMIT => {}
                outcome => return outcome,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        self.inner.ip(arguments)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.go_away();
        // A daemon waits for plugins that are not there where it is.
        let _ = self.socket.parent().map(std::fs::remove_dir);
        // With all that stands on it.
        let _ = self.inner.network.command("ip").args(["link", "delete", &self.inner.parent]).output();
    }
}

/// One connection, which may bring several requests.
fn serve(inner: &Inner, stream: UnixStream) {
    // What breaks off is the daemon's affair.
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(LIMIT));
    let Ok(mut out) = stream.try_clone() else { return };
    let mut input = BufReader::new(stream);
    while let Ok(Some((method, body))) = read(&mut input) {
        let request = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if answer(inner, &mut out, method, request).is_err() {
            return;
        }
    }
}

fn read(input: &mut BufReader<UnixStream>) -> Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let method = line.split(' ').nth(1).context("no path")?.trim_start_matches('/').to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        input.read_line(&mut header)?;
        match header.trim().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            Some((name, _)) if name.eq_ignore_ascii_case("transfer-encoding") => bail!("no length"),
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Some((method, body)))
}

fn answer(inner: &Inner, out: &mut UnixStream, method: String, request: Value) -> Result<()> {
    let reply = {
        let mut state = inner.state();
        state.calls.push(Call { method: method.clone(), request: request.clone() });
        state.replies.get(&method).cloned()
    };
    let (status, body) = match reply {
        None => (200, inner.act(&method, &request)?.to_string()),
        Some(Reply::With(members)) => {
            let mut right = inner.act(&method, &request)?;
            for (name, value) in members.as_object().into_iter().flatten() {
                right[name] = value.clone();
            }
            (200, right.to_string())
        }
        Some(Reply::Json(value)) => (200, value.to_string()),
        Some(Reply::Text(status, text)) => (status, text),
        Some(Reply::Late(late)) => {
            let right = inner.act(&method, &request)?;
            std::thread::sleep(late);
            (200, right.to_string())
        }
        Some(Reply::HangUp) => bail!("as wanted"),
        Some(Reply::Endless) => {
            out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            // Ends when the daemon has had enough.
            loop {
                out.write_all(b"400\r\n")?;
                out.write_all(&[b' '; 0x400])?;
                out.write_all(b"\r\n")?;
            }
        }
    };
    let kind = "application/vnd.docker.plugins.v1+json";
    let length = body.len();
    write!(out, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    Ok(out.flush()?)
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let done = self.network.command("ip").args(arguments.split(' ')).output()?;
        ensure!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// Does what is right, and says so.
    fn act(&self, method: &str, request: &Value) -> Result<Value> {
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        let give = |what: String| _ = self.state().given.insert(what);
        let take = |what: String| _ = self.state().given.remove(&what);
        let endpoint = text("EndpointID");
        let short = endpoint.get(..7).unwrap_or_default().to_owned();
        Ok(match method {
            "Plugin.Activate" => json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
            "NetworkDriver.GetCapabilities" => json!({"Scope": "local", "ConnectivityScope": "local"}),
            "NetworkDriver.CreateNetwork" => {
                give(format!("network {}", text("NetworkID")));
                json!({})
            }
            "NetworkDriver.DeleteNetwork" => {
                take(format!("network {}", text("NetworkID")));
                json!({})
            }
            "NetworkDriver.CreateEndpoint" => {
                give(format!("endpoint {endpoint}"));
                json!({"Interface": {}})
            }
            "NetworkDriver.DeleteEndpoint" => {
                let link = self.state().links.remove(&endpoint);
                if let Some(link) = link.filter(|link| self.ip(&format!("link delete {link}")).is_err()) {
                    self.state().lost.push(link);
                }
                take(format!("endpoint {endpoint}"));
                json!({})
            }
            "NetworkDriver.EndpointOperInfo" => json!({"Value": {}}),
            "NetworkDriver.Join" => {
                let link = format!("pi{short}");
                self.ip(&format!("link add link {} name {link} type macvlan mode bridge", self.parent))?;
                self.state().links.insert(endpoint.clone(), link.clone());
                give(format!("join {endpoint}"));
                let gateway = format!("10.240.{}.1", self.subnet);
                json!({"InterfaceName": {"SrcName": link, "DstPrefix": "eth"}, "Gateway": gateway})
            }
            "NetworkDriver.Leave" => {
                take(format!("join {endpoint}"));
                json!({})
            }
            "NetworkDriver.ProgramExternalConnectivity" => {
                give(format!("external {endpoint}"));
                json!({})
            }
            "NetworkDriver.RevokeExternalConnectivity" => {
                take(format!("external {endpoint}"));
                json!({})
            }
            "IpamDriver.GetCapabilities" => json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}),
            "IpamDriver.GetDefaultAddressSpaces" => {
                json!({"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "everywhere"})
            }
            "IpamDriver.RequestPool" => self.pool(request),
            "IpamDriver.ReleasePool" => {
                take(format!("pool {}", text("PoolID")));
                json!({})
            }
            "IpamDriver.RequestAddress" => {
                let (pool, asked) = (text("PoolID"), text("Address"));
                let (base, bits) = pool.split_once('/').context("a pool of ours")?;
                let address = if asked.is_empty() { self.free_address(base) } else { asked };
                give(format!("address {address}"));
                json!({"Address": format!("{address}/{bits}"), "Data": {}})
            }
            "IpamDriver.ReleaseAddress" => {
                take(format!("address {}", text("Address")));
                json!({})
            }
            _ => json!({}),
        })
    }

    fn pool(&self, request: &Value) -> Value {
        let asked = request["Pool"].as_str().unwrap_or_default();
        let free = match request["V6"].as_bool() {
            Some(true) => format!("fd00:240:{}::/64", self.subnet),
            _ => format!("10.240.{}.0/24", self.subnet),
        };
        let pool = if asked.is_empty() { free } else { asked.to_owned() };
        self.state().given.insert(format!("pool {pool}"));
        json!({"PoolID": pool, "Pool": pool, "Data": {}})
    }

    /// The first address of a pool that nobody has; addresses are not used again at once.
    fn free_address(&self, base: &str) -> String {
        let mut state = self.state();
        loop {
            state.next = state.next % 250 + 1;
            let number = state.next;
            let address = match base.strip_suffix("::") {
                Some(base) => format!("{base}::{number:x}"),
                None => format!("{}.{number}", base.rsplit_once('.').map_or(base, |(head, _)| head)),
            };
            if !state.given.contains(&format!("address {address}")) {
                return address;
            }
        }
    }
}
