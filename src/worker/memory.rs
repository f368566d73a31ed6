//! Returns unused memory to the system.
//!
//! # Why `unsafe`
//! `malloc_trim(3)` is a function of glibc alone, so it is looked up when it is called.

use pyo3::intern;
use pyo3::prelude::*;

/// Collects garbage, unless the application has turned the collector off. Holds the GIL all the time:
/// 0.2 s for half a million objects.
pub(crate) fn collect_garbage(py: Python<'_>) {
    let collected = py.import(intern!(py, "gc")).and_then(|gc| {
        if gc.call_method0(intern!(py, "isenabled"))?.extract()? {
            gc.call_method0(intern!(py, "collect"))?;
        }
        Ok(())
    });
    if let Err(error) = collected {
        error.write_unraisable(py, None);
    }
}

/// Returns free pages of the heap to the system (`malloc_trim(3)`); does nothing without glibc's
/// malloc. Needs no GIL. A thread that allocates meanwhile may wait for it.
pub(crate) fn trim_heap() {
    #[expect(unsafe_code, reason = "looking up a function")]
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc_trim".as_ptr()) };
    if symbol.is_null() {
        return;
    }
    #[expect(unsafe_code, reason = "calling a function of the C library")]
    // SAFETY: glibc, and any library that replaces its malloc, declares `int malloc_trim(size_t)`.
    unsafe {
        let malloc_trim: extern "C" fn(libc::size_t) -> libc::c_int = std::mem::transmute(symbol);
        malloc_trim(0);
    }
}
