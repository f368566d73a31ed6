//! Signal masks of the native threads.
//!
//! The control thread blocks all signals. They are thus delivered to Python threads, whose waits
//! they interrupt so that handlers run. The background thread runs hooks, which may start programs
//! that inherit its mask, so it restores the process's initial mask.
//!
//! # Why `unsafe`
//! There is no safe call for a thread's mask.
#![expect(unsafe_code, reason = "pthread_sigmask(3)")]

use std::fmt;
use std::mem::MaybeUninit;

/// The signal mask of a thread.
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

impl fmt::Debug for SignalMask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SignalMask")
    }
}

impl SignalMask {
    /// Returns this thread's mask.
    pub(crate) fn current() -> Self {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: with a null set nothing is changed, and the old one is written to `mask`; the
        // only possible error is a wrong `how`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
        }
        // SAFETY: `mask` was written just now.
        Self(unsafe { mask.assume_init() })
    }

    /// Returns a mask of all signals.
    pub(crate) fn all() -> Self {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to a local set, which the call initializes; it cannot fail.
        unsafe {
            libc::sigfillset(mask.as_mut_ptr());
        }
        // SAFETY: it was initialized just now.
        Self(unsafe { mask.assume_init() })
    }

    /// Sets this thread's mask.
    pub(crate) fn set(&self) {
        // SAFETY: the set is initialized; only this thread's mask changes.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}
