//! The few bpf(2) commands the device controller of cgroup v2 needs: load a device program, attach it to a cgroup,
//! count what is attached. Also the encoding of the eBPF instructions such a program is made of. Which devices are
//! allowed is decided by the runtime crate.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Several programs may sit on one cgroup, and all must agree (`BPF_F_ALLOW_MULTI`).
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// One eBPF instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

impl Instruction {
    /// `dst = *(u32 *)(src + offset)`.
    pub const fn load_word(dst: u8, src: u8, offset: i16) -> Self {
        Self { code: 0x61, registers: dst | src << 4, offset, immediate: 0 }
    }
    /// `dst = src`, 32 bits.
    pub const fn move_register(dst: u8, src: u8) -> Self {
        Self { code: 0xbc, registers: dst | src << 4, offset: 0, immediate: 0 }
    }
    /// `dst = value`, 32 bits.
    pub const fn move_value(dst: u8, value: i32) -> Self {
        Self { code: 0xb4, registers: dst, offset: 0, immediate: value }
    }
    /// `dst &= value`, 32 bits.
    pub const fn and_value(dst: u8, value: i32) -> Self {
        Self { code: 0x54, registers: dst, offset: 0, immediate: value }
    }
    /// `dst >>= value`, 32 bits, unsigned.
    pub const fn shift_right(dst: u8, value: i32) -> Self {
        Self { code: 0x74, registers: dst, offset: 0, immediate: value }
    }
    /// Skip `distance` instructions if `dst != value`.
    pub const fn jump_not_equal(dst: u8, value: i32, distance: i16) -> Self {
        Self { code: 0x55, registers: dst, offset: distance, immediate: value }
    }
    /// Skip `distance` instructions if `dst != src`.
    pub const fn jump_registers_differ(dst: u8, src: u8, distance: i16) -> Self {
        Self { code: 0x5d, registers: dst | src << 4, offset: distance, immediate: 0 }
    }
    /// Return register 0.
    pub const fn exit() -> Self {
        Self { code: 0x95, registers: 0, offset: 0, immediate: 0 }
    }
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// Verifies and loads a device program. It lives as long as a descriptor or an attachment holds it.
pub fn load_device_program(name: &CStr, program: &[Instruction]) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"Apache-2.0";
    let mut prog_name = [0u8; 16];
    let bytes = name.to_bytes();
    let len = bytes.len().min(prog_name.len() - 1);
    prog_name[..len].copy_from_slice(&bytes[..len]);
    let mut attributes = LoadAttributes {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        prog_name,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes have the kernel's layout for this command, and the instructions, licence and name they
    // point at outlive the call.
    let raw = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Attaches `program` to the cgroup directory `cgroup`; with `replacing`, in place of that one, atomically.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd, replacing: Option<&OwnedFd>) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if replacing.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: replacing.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: the attributes have the kernel's layout for this command and hold descriptors only.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Takes `program` off the cgroup again.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    // SAFETY: as for attaching.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// How many device programs are attached to this cgroup itself.
pub fn attached_device_programs(cgroup: impl AsFd) -> io::Result<u32> {
    let mut attributes =
        QueryAttributes { target_fd: number(cgroup), attach_type: ATTACH_CGROUP_DEVICE, ..QueryAttributes::default() };
    // SAFETY: the attributes have the kernel's layout for this command; with no id buffer only the count is written.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    Ok(attributes.prog_cnt)
}

fn number(fd: impl AsFd) -> u32 {
    // Descriptors are never negative.
    fd.as_fd().as_raw_fd() as u32
}

/// # Safety
/// `attributes` has the layout the kernel expects for `command`, and all it points at is valid during the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: promised by the caller; the size given is the size of the structure.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_match_the_kernel() {
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!(size_of::<LoadAttributes>(), 64);
        assert_eq!(std::mem::offset_of!(LoadAttributes, insns), 8);
        assert_eq!(std::mem::offset_of!(LoadAttributes, log_buf), 32);
        assert_eq!(std::mem::offset_of!(LoadAttributes, prog_name), 48);
        assert_eq!(std::mem::offset_of!(AttachAttributes, replace_bpf_fd), 16);
        assert_eq!(std::mem::offset_of!(QueryAttributes, prog_cnt), 24);
    }

    #[test]
    fn privileged_verifier_takes_a_trivial_program() {
        load_device_program(c"test", &[Instruction::move_value(0, 1), Instruction::exit()]).unwrap();
        let refused = load_device_program(c"test", &[Instruction::exit()]);
        assert!(refused.is_err(), "register 0 was never set");
    }
}
