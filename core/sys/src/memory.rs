//! Memory the allocator keeps for later, which an idle daemon has no use for, and memory that is handed on as a file and can
//! never be changed. The binary's allocator is mimalloc; in programs with another one, there is nothing to give back.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

/// What no holder of a sealed file can do: write, shrink, grow, take the seals off.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// `bytes` in a file that is nowhere but in memory and stays as it is, whoever else gets the descriptor (memfd_create(2),
/// fcntl(2) `F_ADD_SEALS`). `name` is what `/proc/PID/fd` shows. Close-on-exec.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    let mut file = File::from(file);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// What [`sealed`] has put into a file, `longest` bytes at most. Files that somebody could still change are
/// [`io::ErrorKind::InvalidInput`], longer ones [`io::ErrorKind::FileTooLarge`]. Where the descriptor's position is
/// does not matter.
pub fn unsealed(file: impl AsFd, longest: usize) -> io::Result<Vec<u8>> {
    match fcntl_get_seals(&file) {
        Ok(seals) if seals.contains(SEALS) => {}
        Ok(_) | Err(Errno::INVAL) => return Err(io::ErrorKind::InvalidInput.into()),
        Err(error) => return Err(error.into()),
    }
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > longest {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Gives pages that only the allocator holds back to the kernel: those of this thread and of threads that have ended.
#[allow(unsafe_code, reason = "the allocator's own interface is C")]
pub fn give_back() {
    // SAFETY: takes no pointers; may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Lets go of the program's own code; what is used is found again in the page cache, by the dozen of pages, and what only the
/// start needed is not (madvise(2), `MADV_DONTNEED`). Does nothing for a program that lies in parts in memory that it changed.
pub fn unmap_program() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for range in maps.lines().filter_map(|line| code_of(line, program.to_str()?)) {
        drop_pages(range)?;
    }
    Ok(())
}

/// The addresses of a line of `/proc/PID/maps`, if it is `program`'s code: what nobody can write, nor could.
fn code_of(line: &str, program: &str) -> Option<std::ops::Range<usize>> {
    let (fields, name) = line.split_at_checked(line.find('/')?)?;
    let mut fields = fields.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && name == program;
    let number = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some(number(start)?..number(end)?)
}

#[allow(unsafe_code, reason = "advice about memory may change what is in it")]
fn drop_pages(range: std::ops::Range<usize>) -> io::Result<()> {
    let address = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is a mapping of this program's code, which was never writable: pages that are dropped are read
    // again from the same file, whose bytes cannot change while it is executed (ETXTBSY).
    Ok(unsafe { rustix::mm::madvise(address, range.len(), rustix::mm::Advice::LinuxDontNeed) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_data() {
        let line = |rights| format!("55d0a000-55d0c000 {rights} 0000a000 fe:00 1234      /bin/a program");
        assert_eq!(code_of(&line("r-xp"), "/bin/a program"), Some(0x55d0_a000..0x55d0_c000));
        for (line, program) in
            [(line("r--p"), "/bin/a program"), (line("rw-p"), "/bin/a program"), (line("r-xp"), "/bin/a")]
        {
            assert_eq!(code_of(&line, program), None, "{line}");
        }
        assert_eq!(code_of("7ffd000-7ffe000 r-xp 00000000 00:00 0      [vdso]", "[vdso]"), None);
    }

    #[test]
    fn a_program_runs_on_without_its_pages() {
        for _ in 0..3 {
            unmap_program().expect("dropped");
            // Code that was there before.
            assert_eq!(code_of("0-1 r-xp 0 0:0 0 /a", "/a"), Some(0..1));
        }
    }

    #[test]
    fn what_is_sealed_is_read_back_and_stays() {
        let secret = sealed("secret", b"user:password").expect("made");
        let copy = File::from(secret.try_clone().expect("a copy"));
        assert_eq!(unsealed(&secret, 13).expect("read"), b"user:password");
        assert_eq!(unsealed(&secret, 13).expect("read again"), b"user:password");
        assert_eq!(unsealed(&secret, 12).expect_err("longer").kind(), io::ErrorKind::FileTooLarge);
        assert!(copy.write_at(b"x", 0).is_err() && copy.set_len(1).is_err() && copy.set_len(100).is_err());
        assert_eq!(unsealed(sealed("empty", b"").expect("made"), 0).expect("read"), b"");
    }

    #[test]
    fn what_can_still_be_changed_is_refused() {
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
        let (pipe, _) = rustix::pipe::pipe().expect("a pipe");
        let file = tempfile::tempfile().expect("a file").into();
        for other in [open, pipe, file] {
            assert_eq!(unsealed(&other, 100).expect_err("not sealed").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
