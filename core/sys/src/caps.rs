//! Capability sets of the calling thread: read, drop, set. Masks are plain `u64`, bit n standing for capability
//! number n; what the numbers are called is the runtime's business. Used by the container init after `clone3`, where
//! the process has one thread, so the thread's sets are the process's.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

/// One thread's five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What `execve` may ever give.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What a file may pass on.
    pub inheritable: u64,
    /// What plain files keep over `execve`.
    pub ambient: u64,
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The highest capability number this kernel knows (asked once).
pub fn last_capability() -> u32 {
    static LAST: OnceLock<u32> = OnceLock::new();
    *LAST.get_or_init(|| (0..64).take_while(|&number| bounding_has(number).is_ok()).last().unwrap_or(0))
}

/// The mask of all capabilities this kernel knows.
pub fn known() -> u64 {
    u64::MAX >> (63 - last_capability())
}

/// The bounding set of the calling thread: nothing it starts can ever have more.
pub fn bounding() -> u64 {
    (0..=last_capability()).filter(|&n| bounding_has(n).unwrap_or(false)).fold(0, |mask, n| mask | 1 << n)
}

/// All sets of the calling thread.
pub fn current() -> io::Result<CapabilitySets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are to live values with the layout of version 3 (one header, two data elements).
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |field: fn(&Data) -> u32| u64::from(field(&data[0])) | u64::from(field(&data[1])) << 32;
    let ambient = (0..=last_capability()).filter(|&n| ambient_has(n)).fold(0, |mask, n| mask | 1 << n);
    Ok(CapabilitySets {
        bounding: bounding(),
        effective: join(|d| d.effective),
        permitted: join(|d| d.permitted),
        inheritable: join(|d| d.inheritable),
        ambient,
    })
}

/// Drops everything outside `keep` from the bounding set. Needs `CAP_SETPCAP`, so it comes before [`set`].
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for number in (0..=last_capability()).filter(|n| keep >> n & 1 == 0) {
        prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0)?;
    }
    Ok(())
}

/// Sets effective, permitted and inheritable. Bits the kernel does not know must be clear.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let mut header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: both pointers are to live values with the layout of version 3; the kernel only reads the data.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

/// Makes the ambient set exactly `mask`. Each bit must be permitted and inheritable already.
pub fn set_ambient(mask: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for number in (0..=last_capability()).filter(|n| mask >> n & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(number))?;
    }
    Ok(())
}

/// Whether the permitted set survives the change from uid 0 to another.
pub fn keep_over_setuid(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0).map(drop)
}

fn bounding_has(number: u32) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, u64::from(number), 0).map(|value| value == 1)
}

fn ambient_has(number: u32) -> bool {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as u64, u64::from(number)).is_ok_and(|value| value == 1)
}

fn prctl(option: libc::c_int, second: u64, third: u64) -> io::Result<i32> {
    // SAFETY: the options used in this file take integers only; the unused arguments must be zero, and are.
    let result = unsafe { libc::prctl(option, second, third, 0u64, 0u64) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |name: &str| {
            let text = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            u64::from_str_radix(text.trim(), 16).unwrap()
        };
        let sets = current().unwrap();
        assert_eq!(sets.bounding, line("CapBnd:"));
        assert_eq!(sets.effective, line("CapEff:"));
        assert_eq!(sets.permitted, line("CapPrm:"));
        assert_eq!(sets.inheritable, line("CapInh:"));
        assert_eq!(sets.ambient, line("CapAmb:"));
        assert!(last_capability() >= 37 && known().count_ones() == last_capability() + 1);
    }

    #[test]
    fn privileged_sets_are_applied_in_a_thread() {
        std::thread::spawn(|| {
            let keep = 0b1_0000_0001; // CHOWN and SETPCAP
            limit_bounding(keep).unwrap();
            set(keep, keep, 0).unwrap();
            assert_eq!(
                current().unwrap(),
                CapabilitySets { bounding: keep, effective: keep, permitted: keep, inheritable: 0, ambient: 0 }
            );
            set(keep, keep, 1).unwrap();
            set_ambient(1).unwrap();
            assert_eq!(current().unwrap().ambient, 1);
        })
        .join()
        .unwrap();
    }
}
