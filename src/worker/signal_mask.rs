//! Signal masks of our native threads.
//!
//! The control thread blocks all signals, so that handlers run on a thread of Python's, whose waits they interrupt. The
//! helper runs hooks, which may start programs, and those inherit a mask: so it has the one that the process began with.
//!
//! # Why `unsafe`
//! There is no safe call for a thread's mask.
#![expect(unsafe_code, reason = "pthread_sigmask(3)")]

use std::fmt;
use std::mem::MaybeUninit;

/// A thread's mask.
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

impl fmt::Debug for SignalMask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SignalMask")
    }
}

impl SignalMask {
    /// This thread's.
    pub(crate) fn current() -> Self {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: with a null set nothing is changed, and the old one is written to `mask`; no other error exists than
        // that of a wrong `how`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
        }
        // SAFETY: it was written just now.
        Self(unsafe { mask.assume_init() })
    }

    /// All signals.
    pub(crate) fn all() -> Self {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to a set of ours, which the call initializes; it cannot fail.
        unsafe {
            libc::sigfillset(mask.as_mut_ptr());
        }
        // SAFETY: it was initialized just now.
        Self(unsafe { mask.assume_init() })
    }

    /// Makes it this thread's.
    pub(crate) fn set(&self) {
        // SAFETY: the set is initialized; only this thread's mask changes.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}
