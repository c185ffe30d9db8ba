//! A container's network namespace while the daemon makes and keeps it: the namespace, a netlink socket inside it and,
//! for bridges, the two ends of its link. [`Workshop`] makes them on a thread of its own, because making one means to
//! be in it for a moment.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use dockerd_sys::netlink::{Batch, Family, NetlinkError, Socket};
use dockerd_sys::{ns, process};

use crate::bridge::setup::enlarge_pieces;
use crate::error::{InterfaceFault, NetworkError, errno_text};
use crate::link::stacked::{self, IpvlanFlag, IpvlanMode, MacvlanMode, StackedOrder};
use crate::link::{self, LONGEST_NAME, VethOrder};
use crate::remote::RemoteError;

/// What names of links inside begin with, as containers know them.
pub const INNER_PREFIX: &str = "eth";

/// Noted on the host's ends of our links, so that a later daemon knows them.
pub const LINK_ALIAS: &str = "dockerd-rs";

/// Settings of every sandbox, below `/proc/sys/net`: Docker lets any user open low ports and send pings.
const SETTINGS: [(&str, &str); 2] =
    [("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647")];

/// Settings of a link inside, below `/proc/sys/net`: neighbours that knew the address with another hardware address are
/// told when ours is set.
const INNER_SETTINGS: [(&str, &str); 1] = [("ipv4/conf/eth0/arp_notify", "1")];
/// Those of a network with IPv6, and of one without.
const INNER_IPV6: [(&str, &str); 2] = [("ipv6/conf/eth0/disable_ipv6", "0"), ("ipv6/conf/eth0/ndisc_notify", "1")];
const INNER_NO_IPV6: [(&str, &str); 1] = [("ipv6/conf/eth0/disable_ipv6", "1")];

/// A container's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkPort {
    /// Number of the host's end, where it has one.
    pub host: Option<u32>,
    /// Number of the link inside.
    pub inner: u32,
}

/// What keeps a sandbox changeable while its container runs.
#[derive(Debug)]
pub struct SandboxHandle {
    /// A netlink socket inside.
    pub socket: Socket,
    /// The link it was made with, where it has one.
    pub port: Option<LinkPort>,
}

/// What a container's link into a network is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// What it is.
    pub kind: LinkKind,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether it is the way out by itself: default routes lead to the link and to no gateway.
    pub leads_out: bool,
    /// What its name inside begins with; a number follows.
    pub prefix: String,
}

/// The first name inside with that beginning that is not `taken`.
pub fn free_name(prefix: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut names = (0..).map(|number: usize| format!("{prefix}{number}"));
    names.find(|name| !taken(name)).unwrap_or_default()
}

impl LinkPlan {
    /// The name inside that was asked for, else the first of the plan's that is not `taken`.
    pub fn name(&self, wished: Option<&str>, taken: impl Fn(&str) -> bool) -> String {
        wished.map_or_else(|| free_name(&self.prefix, taken), str::to_owned)
    }

    /// The name links have that are made ahead: the first one, if it is possible.
    pub fn made_as(&self) -> String {
        let first = free_name(&self.prefix, |_| false);
        if impossible(&first).is_none() { first } else { format!("{INNER_PREFIX}0") }
    }

    /// The bridge it is a port of.
    pub fn bridge(&self) -> Option<u32> {
        match self.kind {
            LinkKind::Port { bridge, .. } => Some(bridge),
            LinkKind::Macvlan { .. } | LinkKind::Ipvlan { .. } => None,
        }
    }

    /// The host's link it stands on.
    pub fn parent(&self) -> Option<&str> {
        match &self.kind {
            LinkKind::Macvlan { parent, .. } | LinkKind::Ipvlan { parent, .. } => Some(parent),
            LinkKind::Port { .. } => None,
        }
    }
}

/// Refuses a name no link may have, in the kernel's words, before there is one.
pub fn check_name(name: &str) -> Result<(), NetworkError> {
    impossible(name).map_or(Ok(()), |source| Err(name_fault(&format!("{INNER_PREFIX}0"), name, source)))
}

/// What the kernel says of a name no link may have. Beyond its own rule: those of which it would make another name, and
/// those its settings have already.
fn impossible(name: &str) -> Option<io::Error> {
    let number = match name {
        _ if name.len() > LONGEST_NAME => libc::ERANGE,
        "all" | "default" => libc::EINVAL,
        _ if !link::is_link_name(name) || name.contains(['%', '\0']) => libc::EINVAL,
        _ => return None,
    };
    Some(io::Error::from_raw_os_error(number))
}

/// A link did not get its name.
pub fn name_fault(from: &str, to: &str, source: io::Error) -> NetworkError {
    NetworkError::interface(from, InterfaceFault::Name { from: from.to_owned(), to: to.to_owned(), source })
}

/// Kinds of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A pair whose other end is a port of a bridge of the host.
    Port {
        /// The bridge.
        bridge: u32,
        /// Largest packet.
        mtu: u32,
        /// Whether the port is kept from the others'.
        isolated: bool,
    },
    /// One with a hardware address of its own that stands on a link of the host.
    Macvlan {
        /// That link's name: it may go and come back under another number.
        parent: String,
        /// Whom it reaches.
        mode: MacvlanMode,
    },
    /// One with the hardware address of the host's link it stands on.
    Ipvlan {
        /// That link's name.
        parent: String,
        /// At which layer.
        mode: IpvlanMode,
        /// Whom it reaches.
        flag: IpvlanFlag,
    },
}

/// A network namespace ready for use, loopback up.
#[derive(Debug)]
pub struct Sandbox {
    /// To be entered.
    pub netns: OwnedFd,
    /// To be changed.
    pub handle: SandboxHandle,
}

/// What a sandbox has besides loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blueprint {
    /// Nothing.
    Plain,
    /// A link.
    Linked(LinkPlan),
}

/// Makes sandboxes. Lives on one dedicated thread.
#[derive(Debug)]
pub struct Workshop {
    host: OwnedFd,
    socket: Socket,
    /// Bridges that have had a port.
    begun: RefCell<HashSet<u32>>,
}

impl Workshop {
    /// For the calling thread, whose network namespace is the host's.
    pub fn open() -> io::Result<Self> {
        let host = ns::open(Path::new("/proc/thread-self/ns/net"))?;
        Ok(Self { host, socket: Socket::open(Family::Route)?, begun: RefCell::default() })
    }

    /// Makes one. After an error of [`Workshop::is_home`] the thread must end.
    pub fn make(&self, blueprint: &Blueprint) -> Result<Sandbox, NetworkError> {
        ns::unshare(process::NEW_NET).map_err(NetworkError::io("make network namespace"))?;
        let made = self.furnish(blueprint);
        ns::enter(&self.host, process::NEW_NET).map_err(NetworkError::io("return to the host's network namespace"))?;
        made
    }

    /// Whether the thread is in the host's network namespace, as it should be between two sandboxes.
    pub fn is_home(&self) -> bool {
        let inode = |meta: io::Result<fs::Metadata>| meta.ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m));
        let here = inode(fs::metadata("/proc/thread-self/ns/net"));
        let host = self.host.try_clone().map(fs::File::from).and_then(|file| file.metadata());
        here.is_some() && here == inode(host)
    }

    /// Inside the new namespace.
    fn furnish(&self, blueprint: &Blueprint) -> Result<Sandbox, NetworkError> {
        let netns =
            ns::open(Path::new("/proc/thread-self/ns/net")).map_err(NetworkError::io("open network namespace"))?;
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        ns::loopback_up().map_err(NetworkError::io("bring up loopback"))?;
        set_all(&SETTINGS)?;
        let port = match blueprint {
            Blueprint::Plain => None,
            Blueprint::Linked(plan) => Some(plug(&self.socket, &netns, &socket, &plan.made_as(), plan)?),
        };
        if let Blueprint::Linked(plan) = blueprint
            && let Some(bridge) = plan.bridge()
            && self.begun.borrow_mut().insert(bridge)
        {
            enlarge_pieces(&self.socket, bridge);
        }
        Ok(Sandbox { netns, handle: SandboxHandle { socket, port } })
    }
}

/// Makes a link of that name, up; the calling thread is in `netns`, `inside` a socket of it, `host` one of the host's.
fn plug(
    host: &Socket,
    netns: &OwnedFd,
    inside: &Socket,
    name: &str,
    plan: &LinkPlan,
) -> Result<LinkPort, NetworkError> {
    let host_name = match &plan.kind {
        LinkKind::Port { bridge, mtu, isolated } => {
            let made = add_pair(host, netns, name, *mtu, *bridge, *isolated);
            let made = made.map_err(|error| match error.is(libc::EEXIST) {
                true => name_fault(&format!("{INNER_PREFIX}0"), name, io::Error::from_raw_os_error(libc::EEXIST)),
                false => NetworkError::kernel("make the container's link")(error),
            })?;
            Some(made)
        }
        LinkKind::Macvlan { parent, mode } => {
            add_stacked(host, netns, name, parent, "macvlan", |batch, order| {
                stacked::add_macvlan(batch, order, *mode)
            })?;
            None
        }
        LinkKind::Ipvlan { parent, mode, flag } => {
            let add = |batch: &mut Batch, order: StackedOrder<'_>| stacked::add_ipvlan(batch, order, *mode, *flag);
            add_stacked(host, netns, name, parent, "ipvlan", add)?;
            None
        }
    };
    set_inner(name, plan.ipv6)?;
    // Not asked by netlink: that would first settle the state of the new links, behind an RCU grace period each.
    let find = |socket: &Socket, name: &str| {
        ns::interface_index(socket, name).map_err(NetworkError::io("find the container's link"))
    };
    let inner = find(inside, name)?;
    let host = host_name.map(|name| find(host, &name)).transpose()?;
    let mut batch = Batch::new();
    link::set_up(&mut batch, inner);
    if let Err(source) = inside.transact(&batch) {
        let mut batch = Batch::new();
        link::delete(&mut batch, inner);
        // It goes with its namespace in any case; one that stays would have its name.
        let _ = inside.transact(&batch);
        return Err(NetworkError::Kernel { action: "bring up the container's link", source });
    }
    Ok(LinkPort { host, inner })
}

/// Settings of a link inside; the calling thread is there.
fn set_inner(name: &str, ipv6: bool) -> Result<(), NetworkError> {
    let family: &[(&str, &str)] = if ipv6 { &INNER_IPV6 } else { &INNER_NO_IPV6 };
    INNER_SETTINGS.iter().chain(family).try_for_each(|(setting, value)| set(&setting.replace("eth0", name), value))
}

/// Makes a link that stands on the host's link `parent`.
fn add_stacked(
    host: &Socket,
    netns: &OwnedFd,
    name: &str,
    parent: &str,
    kind: &'static str,
    add: impl FnOnce(&mut Batch, StackedOrder<'_>),
) -> Result<(), NetworkError> {
    let index = ns::interface_index(host, parent);
    let parent = index.map_err(|_| NetworkError::ParentLost { parent: parent.to_owned() })?;
    let mut batch = Batch::new();
    add(&mut batch, StackedOrder { name, parent, netns: netns.as_fd() });
    host.transact(&batch).map_err(|source| NetworkError::StackedLink { kind, source })
}

/// Names are drawn; one that is taken is drawn again.
fn add_pair(
    host: &Socket,
    netns: &OwnedFd,
    name: &str,
    mtu: u32,
    bridge: u32,
    isolated: bool,
) -> Result<String, NetlinkError> {
    loop {
        let host_name = format!("veth{}", dockerd_types::ids::hex(&crate::random::<4>()).split_at(7).0);
        let mut batch = Batch::new();
        let order = VethOrder {
            host_name: &host_name,
            inner_name: name,
            bridge,
            netns: netns.as_fd(),
            mtu,
            alias: LINK_ALIAS,
            isolated,
        };
        link::add_veth(&mut batch, order);
        match host.transact(&batch) {
            // The name inside may be what is taken: a container may make links of its own.
            Err(error) if error.is(libc::EEXIST) && !taken(host, &host_name) => return Err(error),
            Err(error) if error.is(libc::EEXIST) => {}
            outcome => return outcome.map(|()| host_name),
        }
    }
}

fn taken(host: &Socket, name: &str) -> bool {
    link::by_name(host, name).is_ok_and(|found| found.is_some())
}

/// Makes one more link in a sandbox that is in use. Blocking.
pub fn add_link(
    host: &Socket,
    netns: &OwnedFd,
    inside: &Socket,
    name: &str,
    plan: &LinkPlan,
) -> Result<LinkPort, NetworkError> {
    within(netns, || plug(host, netns, inside, name, plan))
}

/// Moves `source`, a link that somebody made in the host's namespace, into a sandbox, up and under the name `name`. On
/// failure it stays where it was, or goes back there. Blocking.
pub fn adopt_link(
    host: &Socket,
    netns: &OwnedFd,
    inside: &Socket,
    source: &str,
    name: &str,
    ipv6: bool,
) -> Result<LinkPort, NetworkError> {
    let index = ns::interface_index(host, source).map_err(|_| RemoteError::NoLink(source.to_owned()))?;
    // A container may have links of its own, of whatever name.
    let namesake = ns::interface_index(inside, source).ok();
    let mut batch = Batch::new();
    link::move_away(&mut batch, index, netns.as_fd(), name);
    if let Err(error) = host.transact(&batch) {
        // It may be there already, but not under its name.
        if let Ok(index) = ns::interface_index(inside, source)
            && namesake.is_none()
        {
            return_link(inside, index, source);
        }
        return Err(RemoteError::Move { name: source.to_owned(), why: errno_text(error.io()) }.into());
    }
    let inner = ns::interface_index(inside, name).map_err(NetworkError::io("find the container's link"))?;
    let ready = within(netns, || {
        set_inner(name, ipv6)?;
        let mut batch = Batch::new();
        link::set_up(&mut batch, inner);
        inside.transact(&batch).map_err(NetworkError::kernel("bring up the container's link"))
    });
    ready.inspect_err(|_| return_link(inside, inner, source))?;
    Ok(LinkPort { host: None, inner })
}

/// Gives a link back to the host's namespace, which is the calling thread's, under its name there. It may be gone: its other
/// end was taken away, or the container did it.
pub fn return_link(inside: &Socket, index: u32, source: &str) {
    let host = match ns::open(Path::new("/proc/thread-self/ns/net")) {
        Ok(host) => host,
        Err(error) => return tracing::warn!(link = source, %error, "a link could not be given back"),
    };
    let mut batch = Batch::new();
    link::set_down(&mut batch, index);
    link::move_away(&mut batch, index, host.as_fd(), source);
    if let Err(error) = inside.transact(&batch) {
        tracing::debug!(link = source, %error, "a link was not given back");
    }
}

/// Writes settings below `/proc/sys` of a sandbox. Blocking.
pub fn change_settings(netns: &OwnedFd, settings: &[(String, String)]) -> Result<(), InterfaceFault> {
    let write = |(setting, value): &(String, String)| {
        let path = format!("/proc/sys/{setting}");
        if !fs::metadata(&path).is_ok_and(|found| found.is_file()) {
            return Err(InterfaceFault::NoSysctl(path));
        }
        fs::write(&path, value).map_err(|source| InterfaceFault::Sysctl { path, source })
    };
    within(netns, || settings.iter().try_for_each(write))
}

/// A netlink socket in a sandbox that is in use. Blocking.
pub fn socket_in(netns: &OwnedFd) -> Result<Socket, NetworkError> {
    within(netns, || Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket")))
}

/// Does something in a sandbox that is in use, on a thread that ends with it.
fn within<T: Send, E: From<NetworkError> + Send>(
    netns: &OwnedFd,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let work = || {
        ns::enter(netns, process::NEW_NET).map_err(NetworkError::io("enter the container's network namespace"))?;
        work()
    };
    let joined = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns-visit".to_owned()).spawn_scoped(scope, work);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    match joined {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Err(NetworkError::io("start a thread")(error).into()),
    }
}

/// Writes settings of the calling thread's network namespace.
fn set_all(settings: &[(&str, &str)]) -> Result<(), NetworkError> {
    settings.iter().try_for_each(|(setting, value)| set(setting, value))
}

fn set(setting: &str, value: &str) -> Result<(), NetworkError> {
    match fs::write(Path::new("/proc/sys/net").join(setting), value) {
        // A kernel without IPv6, say, needs no switch for it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(NetworkError::io(format!("set {setting}"))),
    }
}

/// A sandbox that is there already.
#[derive(Debug)]
pub struct Reopened {
    /// A netlink socket inside.
    pub socket: Socket,
    /// The links asked for, in that order; `None` for those that are gone.
    pub ports: Vec<Option<LinkPort>>,
}

/// Opens the sandboxes of these processes, with links of these names. Spawns one thread for all.
pub fn reopen(wanted: Vec<(i32, Vec<String>)>) -> Vec<io::Result<Reopened>> {
    let count = wanted.len();
    let opened = std::thread::Builder::new()
        .name("netns-reopen".to_owned())
        .spawn(move || wanted.iter().map(|(pid, links)| reopen_one(*pid, links)).collect::<Vec<_>>());
    let opened = opened.and_then(|thread| thread.join().map_err(|_| io::Error::other("thread ended")));
    opened.unwrap_or_else(|error| (0..count).map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect())
}

fn reopen_one(pid: i32, links: &[String]) -> io::Result<Reopened> {
    let netns = ns::open(&namespace_of(pid))?;
    ns::enter(&netns, process::NEW_NET)?;
    let socket = Socket::open(Family::Route)?;
    let find = |name: &String| {
        // A plugin's network may have no link.
        if name.is_empty() {
            return Ok(None);
        }
        let found = link::by_name(&socket, name).map_err(io::Error::other)?;
        // What others stand on is no end of theirs.
        let host = |link: &link::Link| link.peer.filter(|_| link.kind == "veth");
        Ok(found.map(|link| LinkPort { host: host(&link), inner: link.index }))
    };
    let ports = links.iter().map(find).collect::<io::Result<_>>()?;
    Ok(Reopened { socket, ports })
}

/// Where a process's network namespace is opened.
pub fn namespace_of(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("ns/net")
}
