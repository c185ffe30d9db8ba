//! Many datagrams of one IPv4 socket in one system call (recvmmsg(2), sendmmsg(2)), for servers whose messages are small:
//! there a call costs more than the work on what it brings. What goes to one address in messages of one length goes through
//! the kernel in one piece (`UDP_SEGMENT`, udp(7)). Buffers are made once and used again.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The parts of one message's header that the kernel reads or writes.
struct Slots {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_in>,
}

impl Slots {
    #[allow(unsafe_code, reason = "these are plain structures of the kernel's")]
    fn new(count: usize) -> Self {
        // SAFETY: all-zero is a valid value of each: numbers and null pointers.
        let (header, vector, address) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        Self { headers: vec![header; count], vectors: vec![vector; count], addresses: vec![address; count] }
    }

    /// Makes header `index` speak of `length` bytes at `data` and of its own address.
    fn point(&mut self, index: usize, data: *mut u8, length: usize) {
        self.vectors[index] = libc::iovec { iov_base: data.cast(), iov_len: length };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = &raw mut self.vectors[index];
        header.msg_iovlen = 1;
        header.msg_name = (&raw mut self.addresses[index]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_flags = 0;
    }
}

/// Datagrams that came in.
pub struct Inbox {
    slots: Slots,
    data: Vec<u8>,
    size: usize,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Inbox {
    /// Room for `count` datagrams of up to `size` bytes.
    pub fn new(count: usize, size: usize) -> Self {
        Self { slots: Slots::new(count), data: vec![0; count * size], size }
    }

    /// How many it takes at once. Who got fewer has emptied the socket.
    pub fn capacity(&self) -> usize {
        self.slots.headers.len()
    }

    /// Takes what has arrived, without waiting; returns how many that were. Errors: `WouldBlock` when there is nothing,
    /// and what ICMP said of earlier datagrams.
    #[allow(unsafe_code, reason = "recvmmsg has no safe wrapper")]
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        for index in 0..self.capacity() {
            let data = self.data[index * self.size..].as_mut_ptr();
            self.slots.point(index, data, self.size);
        }
        let count = self.capacity() as libc::c_uint;
        // SAFETY: every header was just pointed at an address and at `size` bytes of the data, all of which live as long
        // as this borrow; their number is given.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.slots.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Datagram `index` of the last call: where it came from, and its bytes; `None` when it was longer than there was
    /// room for.
    pub fn datagram(&self, index: usize) -> Option<(SocketAddrV4, &[u8])> {
        let header = &self.slots.headers[index];
        let length = (header.msg_len as usize).min(self.size);
        let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let from = &self.slots.addresses[index];
        let from = SocketAddrV4::new(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)), u16::from_be(from.sin_port));
        whole.then(|| (from, &self.data[index * self.size..][..length]))
    }
}

/// Most datagrams that go out in one piece (`UDP_MAX_SEGMENTS` of the first kernels that had it), and most of their bytes.
const MOST_SEGMENTS: usize = 64;
const MOST_BYTES: usize = 60_000;

/// A control message that holds the length of a piece's datagrams.
#[derive(Clone)]
#[repr(C)]
struct Segments {
    header: libc::cmsghdr,
    length: u16,
    rest: [u8; 6],
}

impl Segments {
    fn of(length: usize) -> Self {
        let header = libc::cmsghdr {
            // Without what fills it up, as CMSG_LEN has it.
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        // Only lengths of at most `MOST_BYTES` come here.
        Self { header, length: u16::try_from(length).unwrap_or(u16::MAX), rest: [0; 6] }
    }
}

/// Datagrams that are to go out.
pub struct Outbox {
    slots: Slots,
    messages: Vec<Vec<u8>>,
    used: usize,
    /// The lengths, of pieces of more than one.
    segments: Vec<Segments>,
    /// Whether the kernel takes such pieces, as far as is known.
    joins: bool,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Room for `count` datagrams.
    pub fn new(count: usize) -> Self {
        let segments = vec![Segments::of(0); count];
        Self { slots: Slots::new(count), messages: vec![Vec::new(); count], used: 0, segments, joins: true }
    }

    /// Whether nothing is to go out.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds a datagram to `to` that `fill` writes into an empty buffer; it is kept if `fill` says so. Must not be called
    /// more often than there is room.
    pub fn add(&mut self, to: SocketAddrV4, fill: impl FnOnce(&mut Vec<u8>) -> bool) {
        let message = &mut self.messages[self.used];
        message.clear();
        if !fill(message) {
            return;
        }
        let address = &mut self.slots.addresses[self.used];
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = to.port().to_be();
        address.sin_addr.s_addr = u32::from(*to.ip()).to_be();
        self.used += 1;
    }

    /// Sends everything and is empty again. What the kernel has no room for, or refuses, is dropped, as the network may
    /// drop any datagram.
    pub fn send(&mut self, socket: impl AsFd) {
        let mut at = 0;
        while at < self.used {
            let pieces = self.lay_out(at);
            let (sent, stopped) = self.hand_over(socket.as_fd(), pieces);
            let mut done: usize = (0..sent).map(|piece| self.slots.headers[piece].msg_hdr.msg_iovlen).sum();
            if let Some(error) = stopped {
                let refused = self.slots.headers[sent].msg_hdr.msg_iovlen;
                // A kernel or a link that does not know pieces; full buffers are told otherwise.
                let unknown = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO));
                if refused > 1 && unknown {
                    self.joins = false;
                } else {
                    done += refused;
                }
            }
            at += done;
        }
        self.used = 0;
    }

    /// How many of the datagrams from `first` on go out in one piece: all to one address, all of one length but for the
    /// last, which may be shorter.
    fn piece(&self, first: usize) -> usize {
        if !self.joins {
            return 1;
        }
        let same = |a: &libc::sockaddr_in, b: &libc::sockaddr_in| {
            (a.sin_port, a.sin_addr.s_addr) == (b.sin_port, b.sin_addr.s_addr)
        };
        let length = self.messages[first].len();
        let most = MOST_BYTES.checked_div(length).map_or(1, |most| most.clamp(1, MOST_SEGMENTS));
        let mut count = 1;
        while count < most && first + count < self.used {
            let next = &self.messages[first + count];
            let fits = (1..=length).contains(&next.len());
            if !fits || !same(&self.slots.addresses[first], &self.slots.addresses[first + count]) {
                break;
            }
            count += 1;
            if next.len() < length {
                break;
            }
        }
        count
    }

    /// Makes headers for the datagrams from `at` on; returns how many.
    fn lay_out(&mut self, mut at: usize) -> usize {
        for index in at..self.used {
            let message = &mut self.messages[index];
            let (iov_base, iov_len) = (message.as_mut_ptr().cast(), message.len());
            self.slots.vectors[index] = libc::iovec { iov_base, iov_len };
        }
        let mut pieces = 0;
        while at < self.used {
            let count = self.piece(at);
            let header = &mut self.slots.headers[pieces].msg_hdr;
            header.msg_iov = &raw mut self.slots.vectors[at];
            header.msg_iovlen = count as _;
            header.msg_name = (&raw mut self.slots.addresses[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            (header.msg_control, header.msg_controllen, header.msg_flags) = (std::ptr::null_mut(), 0, 0);
            if count > 1 {
                self.segments[pieces] = Segments::of(self.messages[at].len());
                header.msg_control = (&raw mut self.segments[pieces]).cast();
                header.msg_controllen = size_of::<Segments>() as _;
            }
            (at, pieces) = (at + count, pieces + 1);
        }
        pieces
    }

    /// How many of the first `pieces` headers the kernel took, and why not the next one if that was not all.
    #[allow(unsafe_code, reason = "sendmmsg has no safe wrapper")]
    fn hand_over(&mut self, socket: BorrowedFd<'_>, pieces: usize) -> (usize, Option<io::Error>) {
        let mut done = 0;
        while done < pieces {
            let headers = &mut self.slots.headers[done..pieces];
            // SAFETY: every header was just pointed at an address, at a control message or none, and at buffers with the
            // bytes of messages, all of which live as long as this borrow and are not changed; their number is given.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    headers.len() as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                // Fewer than asked for: what stopped it is told when it is asked again.
                Ok(sent) if sent > 0 => done += sent,
                _ => return (done, Some(io::Error::last_os_error())),
            }
        }
        (done, None)
    }
}

// SAFETY: the pointers in the headers are set before every call and not used between calls.
#[allow(unsafe_code, reason = "kernel structures hold pointers")]
unsafe impl Send for Slots {}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let std::net::SocketAddr::V4(address) = socket.local_addr().expect("an address") else { panic!("IPv4") };
        (socket, address)
    }

    #[test]
    fn datagrams_go_there_and_back() {
        let ((one, one_at), (two, two_at)) = (pair(), pair());
        let (mut inbox, mut outbox) = (Inbox::new(4, 16), Outbox::new(4));
        assert_eq!(inbox.receive(&two).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        for text in ["a", "bc", "not kept", "longer than sixteen"] {
            outbox.add(two_at, |out| {
                out.extend_from_slice(text.as_bytes());
                text != "not kept"
            });
        }
        outbox.send(&one);
        assert!(outbox.is_empty());
        // Loopback delivers at once.
        assert_eq!(inbox.receive(&two).expect("received"), 3);
        assert_eq!(inbox.datagram(0), Some((one_at, &b"a"[..])));
        assert_eq!(inbox.datagram(1), Some((one_at, &b"bc"[..])));
        assert_eq!(inbox.datagram(2), None);
    }

    #[test]
    fn pieces_come_in_as_the_datagrams_they_were() {
        let ((one, _), (two, two_at), (three, three_at)) = (pair(), pair(), pair());
        let long = "x".repeat(40_000);
        let texts = [
            (two_at, "aaa"),
            (two_at, "bbb"),
            (two_at, "c"),
            (two_at, "dd"),
            (three_at, "eee"),
            (three_at, "fffff"),
            (two_at, ""),
            (two_at, ""),
            (two_at, &long),
            (two_at, &long),
        ];
        let mut outbox = Outbox::new(texts.len());
        // The second time by one who has learned that there are no pieces.
        for joins in [true, false] {
            outbox.joins = joins;
            for (to, text) in texts {
                outbox.add(to, |out| {
                    out.extend_from_slice(text.as_bytes());
                    true
                });
            }
            let first = if joins { 3 } else { 1 };
            assert_eq!(outbox.piece(0), first);
            outbox.send(&one);
            for (socket, at) in [(&two, two_at), (&three, three_at)] {
                let mut inbox = Inbox::new(texts.len(), 50_000);
                let expected: Vec<&str> = texts.iter().filter(|(to, _)| *to == at).map(|(_, text)| *text).collect();
                assert_eq!(inbox.receive(socket).expect("received"), expected.len());
                for (index, text) in expected.into_iter().enumerate() {
                    let (_, found) = inbox.datagram(index).expect("whole");
                    assert_eq!(found, text.as_bytes());
                }
            }
            assert_eq!(outbox.joins, joins, "this kernel knows them");
        }
    }

    #[test]
    fn what_cannot_be_sent_does_not_hold_up_the_rest() {
        let ((one, _), (two, two_at)) = (pair(), pair());
        let mut outbox = Outbox::new(3);
        // Broadcasts are not allowed on this socket.
        for to in [SocketAddrV4::new(Ipv4Addr::BROADCAST, 9), two_at] {
            outbox.add(to, |out| {
                out.push(b'x');
                true
            });
        }
        outbox.send(&one);
        assert_eq!(Inbox::new(4, 16).receive(&two).expect("received"), 1);
    }
}
