//! Names of containers, asked for from within a container's network namespace: how many a second, and how long a client waits
//! for one.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use dockerd_sys::datagrams::{Inbox, Outbox};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{NETWORK, Ports, idle, on_a_network};
use crate::ab::daemon::Daemon;
use crate::ab::sample::{Series, Summary, Unit};
use crate::ab::{Bench, millis};

/// Where containers ask.
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// The longest response, bytes.
const LONGEST: usize = 512;
/// A query is sent again after so long, as clients do.
const PATIENCE: Duration = Duration::from_secs(1);
/// Digits of a container's id that are one of its names.
const SHORT: usize = 12;
/// Flags of a query and of a response without error: a recursive answer is wanted.
const WANTED: u8 = 1;
const RESPONSE: u8 = 0x80;
const CODE: u8 = 0x0f;

/// Clients, each with so many queries under way.
#[derive(Debug, Clone, Copy)]
struct Load {
    clients: usize,
    under_way: u16,
}

/// More than one processor can ask for, and what a busy container asks.
const HEAVY: Load = Load { clients: 8, under_way: 12 };
const LIGHT: Load = Load { clients: 4, under_way: 4 };

/// The rate under load, and waiting times without much of it.
pub(crate) fn names(bench: &mut Bench) -> Result<()> {
    let (turns, time) = if bench.options.quick { (1, 1) } else { (5, 3) };
    on_a_network(bench, |bench| {
        let count = bench.daemons.len();
        let line = |load: Load, what: &str, unit, ratio| {
            let title = format!("names of containers, {} queries under way, {what}", load.under_way() * load.clients);
            Series::new(title, unit, None, count).at_least_times(ratio)
        };
        let mut lines = [
            line(HEAVY, "rate", Unit::PerSecond, 5.0),
            line(HEAVY, "p99", Unit::Millis, 1.0),
            line(LIGHT, "median", Unit::Millis, 1.0),
            line(LIGHT, "p99", Unit::Millis, 1.0),
        ];
        for turn in 0..turns {
            for place in 0..count {
                let at = if turn % 2 == 0 { place } else { count - 1 - place };
                let daemon = &mut bench.daemons[at];
                let values = measured(daemon, Duration::from_secs(time)).with_context(|| daemon.name)?;
                lines.iter_mut().zip(values).for_each(|(line, value)| line.samples[at].push(value));
            }
        }
        bench.report.extend(lines);
        Ok(())
    })
}

impl Load {
    fn under_way(self) -> usize {
        self.under_way.into()
    }

    /// Waiting times, in milliseconds, of all queries for `name` in `time`, asked in the namespace of `pid`.
    fn put(self, pid: i64, name: &str, time: Duration) -> Result<Vec<f64>> {
        let sockets = sockets(pid, self.clients)?;
        std::thread::scope(|scope| {
            let client = |socket| scope.spawn(move || Client::new(socket, name, self.under_way()).run(time));
            let clients: Vec<_> = sockets.into_iter().map(client).collect();
            let mut waits = Vec::new();
            for client in clients {
                waits.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            Ok(waits)
        })
    }
}

fn measured(daemon: &mut Daemon, time: Duration) -> Result<[f64; 4]> {
    let (asked, _) = idle(&mut daemon.api, NETWORK, Ports::None)?;
    let (client, pid) = idle(&mut daemon.api, NETWORK, Ports::None)?;
    let put = |load: Load| {
        let waits = load.put(pid, &asked[..SHORT], time)?;
        let Summary { median, p99, .. } = Summary::of(&waits).context("nothing was answered")?;
        Ok::<_, anyhow::Error>((waits.len() as f64 / time.as_secs_f64(), median, p99))
    };
    let measured = put(HEAVY).and_then(|heavy| Ok((heavy, put(LIGHT)?)));
    daemon.api.remove(&client)?;
    daemon.api.remove(&asked)?;
    let ((rate, _, heavy_p99), (_, median, p99)) = measured?;
    Ok([rate, heavy_p99, median, p99])
}

/// Sockets belong to the network namespace they are made in; so a thread makes them there, and ends.
fn sockets(pid: i64, count: usize) -> Result<Vec<UdpSocket>> {
    let netns = File::open(format!("/proc/{pid}/ns/net"))?;
    let make = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let connected = || {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(RESOLVER)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        (0..count).map(|_| connected()).collect()
    };
    std::thread::spawn(make).join().map_err(|_| anyhow!("a thread panicked"))?
}

/// One that always has the same number of queries under way. It takes and sends many at a time: what it costs itself is
/// missing to the daemon.
struct Client {
    socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    query: Vec<u8>,
    /// When the query with this id was sent first.
    sent: Vec<Instant>,
    waits: Vec<f64>,
}

impl Client {
    fn new(socket: UdpSocket, name: &str, under_way: usize) -> Self {
        let (inbox, outbox) = (Inbox::new(under_way, LONGEST), Outbox::new(under_way));
        Self { socket, inbox, outbox, query: query(name), sent: vec![Instant::now(); under_way], waits: Vec::new() }
    }

    fn run(mut self, time: Duration) -> Result<Vec<f64>> {
        let begun = Instant::now();
        self.ask_all();
        while begun.elapsed() < time {
            match self.socket.peek(&mut [0]) {
                Ok(_) => self.answered()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ask_all(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.waits)
    }

    fn ask_all(&mut self) {
        (0..self.sent.len()).for_each(|id| self.ask(id as u16));
        self.outbox.send(&self.socket);
    }

    fn ask(&mut self, id: u16) {
        self.query[..2].copy_from_slice(&id.to_be_bytes());
        self.outbox.add(RESOLVER, |out| {
            out.extend_from_slice(&self.query);
            true
        });
    }

    fn answered(&mut self) -> Result<()> {
        let count = self.inbox.receive(&self.socket)?;
        let now = Instant::now();
        for index in 0..count {
            let (_, response) = self.inbox.datagram(index).context("a response that is too long")?;
            let [high, low, flags, code, _, _, _, answers, ..] = *response else { bail!("a response without header") };
            let id = u16::from_be_bytes([high, low]);
            ensure!(flags & RESPONSE != 0 && code & CODE == 0 && answers == 1, "not the answer: {response:x?}");
            let sent = self.sent.get_mut(usize::from(id)).context("an answer nobody asked for")?;
            self.waits.push(millis(now - *sent));
            *sent = now;
            self.ask(id);
        }
        self.outbox.send(&self.socket);
        Ok(())
    }
}

/// Asks for the address (type A, class IN) of a name of one label. Its id comes first.
fn query(name: &str) -> Vec<u8> {
    let header = [0, 0, WANTED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let label = [&[name.len() as u8][..], name.as_bytes()].concat();
    [&header[..], &label, &[0, 0, 1, 0, 1]].concat()
}
