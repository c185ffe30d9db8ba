//! Installs a compiled seccomp filter on the calling thread. The program is a list of classic BPF instructions packed
//! into `u64` words exactly as the kernel lays them out in memory, so no conversion happens on the start path. What
//! the program means, and who compiled it, is not known here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// Log every action but "allow" (`SECCOMP_FILTER_FLAG_LOG`).
pub const FLAG_LOG: u32 = 1 << 1;
/// Leave speculative store bypass alone (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// Give back a descriptor on which "notify" decisions arrive (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// Notified calls only wait for fatal signals (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

const SET_MODE_FILTER: libc::c_uint = 1;

/// One classic BPF instruction as `struct sock_filter` packs it.
pub const fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> u64 {
    let (c, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    u64::from_ne_bytes([c[0], c[1], jump_true, jump_false, k[0], k[1], k[2], k[3]])
}

/// The fields of a packed instruction: code, jump if true, jump if false, constant.
pub const fn fields(word: u64) -> (u16, u8, u8, u32) {
    let b = word.to_ne_bytes();
    (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
}

/// Whether this kernel serves x32 calls (asked once, with getpid). Most are built without.
pub fn x32_is_served() -> bool {
    static SERVED: OnceLock<bool> = OnceLock::new();
    const X32_BIT: libc::c_long = 0x4000_0000;
    // SAFETY: getpid takes nothing and changes nothing; where x32 is unknown so is the number, which answers ENOSYS.
    *SERVED.get_or_init(|| cfg!(target_arch = "x86_64") && unsafe { libc::syscall(libc::SYS_getpid | X32_BIT) } > 0)
}

/// Installs `program` on the calling thread for good. The caller has `CAP_SYS_ADMIN` in its user namespace or has set
/// `no_new_privs`. With [`FLAG_NEW_LISTENER`] the listener comes back.
pub fn install(program: &[u64], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `fprog` points at `len` words that have the size, and at least the alignment, of `struct sock_filter`;
    // the kernel copies them and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const fprog) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let raw = i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: with this flag the kernel has just made this descriptor for us; nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_matches_the_kernel_structure() {
        assert_eq!(size_of::<libc::sock_filter>(), size_of::<u64>());
        assert!(align_of::<u64>() >= align_of::<libc::sock_filter>());
        assert_eq!(fields(instruction(0x15, 3, 4, 0xdead_beef)), (0x15, 3, 4, 0xdead_beef));
    }

    #[test]
    fn privileged_filter_decides_in_its_thread() {
        std::thread::spawn(|| {
            // Load the number; getppid gives EDOM, everything else is allowed.
            let program = [
                instruction(0x20, 0, 0, 0),
                instruction(0x15, 0, 1, libc::SYS_getppid as u32),
                instruction(0x06, 0, 0, 0x0005_0000 | libc::EDOM as u32),
                instruction(0x06, 0, 0, 0x7fff_0000),
            ];
            assert!(install(&program, 0).unwrap().is_none());
            // SAFETY: getppid takes nothing and touches nothing.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EDOM)));
        })
        .join()
        .unwrap();
    }
}
