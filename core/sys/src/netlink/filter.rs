//! What a subscriber is woken for, as a program of the kernel's (classic BPF) that looks at the number of the link a message
//! speaks of. It lies in the same place in messages about links and about addresses.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Where `ifi_index` and `ifa_index` are, behind the header.
const INDEX: u32 = 20;
/// `BPF_MAXINSNS`.
const LONGEST: usize = 4096;
const WHOLE: u32 = u32::MAX;
const NOTHING: u32 = 0;

const fn instruction(code: u32, value: u32, skip_unless: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: skip_unless, k: value }
}

/// Lets through what is about these links; everything, where they are too many.
pub(super) fn links(links: &[u32]) -> Vec<sock_filter> {
    let verdict = |what| instruction(BPF_RET | BPF_K, what, 0);
    if 2 * links.len() + 2 > LONGEST {
        return vec![verdict(WHOLE)];
    }
    let mut program = vec![instruction(BPF_LD | BPF_W | BPF_ABS, INDEX, 0)];
    for link in links {
        // The program reads in the network's order what the kernel wrote in its own.
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, u32::from_be_bytes(link.to_ne_bytes()), 1));
        program.push(verdict(WHOLE));
    }
    program.push(verdict(NOTHING));
    program
}

#[cfg(test)]
mod tests {
    use crate::netlink::{Batch, Socket, message};

    /// Asks for a change of `index` that is none but told of all the same: its alias is set to what it is.
    fn touch(socket: &Socket, index: u32, alias: &str) {
        let mut header = [0u8; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, message::ACK).raw(&header).text(libc::IFLA_IFALIAS, alias);
        socket.transact(&batch).expect("needs root");
    }

    #[test]
    fn privileged_only_links_asked_for_are_told_of() {
        let test = || {
            crate::ns::unshare(crate::process::NEW_NET).expect("needs root");
            crate::ns::loopback_up().expect("loopback");
            let (told, socket) =
                (Socket::subscribe_links().expect("socket"), Socket::open(crate::netlink::Family::Route));
            let (socket, lo) = (socket.expect("socket"), 1);
            let heard = |alias: &str| {
                let mut kinds = Vec::new();
                touch(&socket, lo, alias);
                // What is told of is there when the request has been answered.
                rustix::io::ioctl_fionbio(&told, true).expect("set");
                while told.hear(|message| kinds.push(message.kind)).is_ok() {}
                kinds
            };
            assert_eq!(heard("a"), [libc::RTM_NEWLINK], "all");
            told.tell_only_of(&[7, lo]).expect("set");
            assert_eq!(heard("b"), [libc::RTM_NEWLINK]);
            told.tell_only_of(&[7, 8]).expect("set");
            assert_eq!(heard("c"), []);
            told.tell_only_of(&(2..5000).collect::<Vec<_>>()).expect("set");
            assert_eq!(heard("d"), [libc::RTM_NEWLINK], "too many to look at");
        };
        std::thread::spawn(test).join().expect("no panic");
    }
}
