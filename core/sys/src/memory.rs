//! Memory the allocator keeps for later, which an idle daemon has no use for. The binary's allocator is mimalloc; in
//! programs with another one, this finds nothing to give back.

/// Gives pages that only the allocator holds back to the kernel: those of this thread and of threads that have ended.
#[allow(unsafe_code, reason = "the allocator's own interface is C")]
pub fn give_back() {
    // SAFETY: takes no pointers; may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
