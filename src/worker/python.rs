//! Helpers for Python objects: text conversion, exceptions as text, forked children, and embedded
//! modules.
//!
//! # Why `unsafe`
//! The limited API of 3.9 has no borrowed view of a `str` (`PyUnicode_AsUTF8AndSize` joined it in
//! 3.10), so PyO3's safe functions make one or two temporary `bytes` objects per header. CPython
//! 3.9 exports that function nevertheless. It also exports `PyUnicode_AsUCS4`, which copies text
//! that is not ASCII into a caller's buffer without allocating. PyO3's iterator over a dictionary
//! takes references to every key.
#![expect(unsafe_code, reason = "the limited API of 3.9 has no safe way to read a str without allocating")]

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyModule, PyString};
use rgun_channel::frame::AppError;

use crate::dispositions;

/// Exit code for a wrong configuration, `sysexits(3)`.
pub(crate) const EX_CONFIG: i32 = 78;

/// Exit code for an internal error, `sysexits(3)`.
pub(crate) const EX_SOFTWARE: i32 = 70;

/// Locks a mutex, also a poisoned one: the critical sections leave the data consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text has a character outside ISO-8859-1 (PEP 3333, "Unicode Issues").
#[derive(Debug)]
pub(crate) struct NotLatin1;

unsafe extern "C" {
    /// In the limited API since 3.10; exported by CPython 3.9 as well.
    fn PyUnicode_AsUTF8AndSize(text: *mut ffi::PyObject, size: *mut ffi::Py_ssize_t) -> *const c_char;
}

/// Appends the characters of `text` as ISO-8859-1 bytes.
pub(crate) fn append_latin1(text: &Bound<'_, PyString>, out: &mut Vec<u8>) -> Result<(), NotLatin1> {
    let mut size = 0;
    // A str that is not ASCII caches its UTF-8 as long as it lives; such values are rare.
    // SAFETY: `text` is a str and we are attached (it is a Bound).
    let utf8 = unsafe { PyUnicode_AsUTF8AndSize(text.as_ptr(), &raw mut size) };
    if utf8.is_null() {
        // Surrogates, which ISO-8859-1 does not have.
        drop(PyErr::take(text.py()));
        return Err(NotLatin1);
    }
    // SAFETY: these are `size` bytes that the str keeps for as long as it lives.
    let utf8 = unsafe { std::slice::from_raw_parts(utf8.cast::<u8>(), size.unsigned_abs()) };
    if utf8.is_ascii() {
        out.extend_from_slice(utf8);
        return Ok(());
    }
    append_non_ascii(text, out)
}

/// Appends text that is not ASCII.
#[cold]
fn append_non_ascii(text: &Bound<'_, PyString>, out: &mut Vec<u8>) -> Result<(), NotLatin1> {
    const MAX_STACK_CHARS: usize = 256;
    // SAFETY: `text` is a str and we are attached (it is a Bound).
    let len = usize::try_from(unsafe { ffi::PyUnicode_GetLength(text.as_ptr()) }).map_err(|_| NotLatin1)?;
    let mut short = [MaybeUninit::<u32>::uninit(); MAX_STACK_CHARS];
    let mut long = Vec::new();
    let buffer: &mut [MaybeUninit<u32>] = if len <= MAX_STACK_CHARS {
        &mut short[..len]
    } else {
        long.resize(len, MaybeUninit::uninit());
        &mut long
    };
    let room = ffi::Py_ssize_t::try_from(len).map_err(|_| NotLatin1)?;
    // SAFETY: the buffer has room for `len` code points, and with copy_null = 0 no terminating null
    // is written.
    let written = unsafe { ffi::PyUnicode_AsUCS4(text.as_ptr(), buffer.as_mut_ptr().cast(), room, 0) };
    if written.is_null() {
        drop(PyErr::take(text.py()));
        return Err(NotLatin1);
    }
    let mut all = 0;
    let start = out.len();
    out.extend(buffer.iter().map(|point| {
        // SAFETY: PyUnicode_AsUCS4 has written all `len` elements.
        let point = unsafe { point.assume_init() };
        all |= point;
        #[expect(clippy::cast_possible_truncation, reason = "checked below by `all`")]
        {
            point as u8
        }
    }));
    if all > 0xff {
        out.truncate(start);
        return Err(NotLatin1);
    }
    Ok(())
}

/// Converts bytes to a `str` of the same code points, as PEP 3333 passes bytes from the network.
pub(crate) fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let len = ffi::Py_ssize_t::try_from(bytes.len()).expect("slices are no longer than isize::MAX");
    // SAFETY: pointer and length are from one slice; `errors` may be null, nothing can fail to
    // decode. The result is a new reference to a str, or null with an exception set (no memory).
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), len, std::ptr::null());
        Bound::from_owned_ptr_or_err(py, text).map(|text| text.cast_into_unchecked())
    }
}

/// Formats a number as a decimal `str`.
pub(crate) fn decimal(py: Python<'_>, mut number: u64) -> PyResult<Bound<'_, PyString>> {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
        number /= 10;
        if number == 0 {
            return latin1(py, &digits[at..]);
        }
    }
}

/// Looks up several keys in a dictionary. A small dictionary literal has interned keys, which are
/// found by identity in one pass; a key is looked up by value only if the dictionary has other
/// keys.
pub(crate) fn values_of<'py, const N: usize>(
    dict: &Bound<'py, PyDict>,
    keys: [&Bound<'py, PyString>; N],
) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
    const MAX_SCANNED_ENTRIES: usize = 8;
    let mut values = [const { None }; N];
    let n_entries = dict.len();
    let mut has_others = n_entries > MAX_SCANNED_ENTRIES;
    if !has_others {
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // Counts instead of waiting for the reported end, which would take one more call.
        for _ in 0..n_entries {
            // SAFETY: a dict, and we are attached; `at` is 0 at first. Nothing that runs in the
            // loop can change the dict, so the borrowed references stay valid.
            unsafe {
                if ffi::PyDict_Next(dict.as_ptr(), &raw mut at, &raw mut key, &raw mut value) == 0 {
                    break;
                }
                match keys.iter().position(|known| known.as_ptr() == key) {
                    Some(found) => values[found] = Some(Bound::from_borrowed_ptr(dict.py(), value)),
                    None => has_others = true,
                }
            }
        }
    }
    if has_others {
        for (value, key) in values.iter_mut().zip(keys) {
            if value.is_none() {
                *value = dict.get_item(key)?;
            }
        }
    }
    Ok(values)
}

/// Returns whether a dictionary has these keys and values, the same objects in the same order.
pub(crate) fn has_entries(dict: &Bound<'_, PyDict>, entries: &[(Py<PyAny>, Py<PyAny>)]) -> bool {
    if dict.len() != entries.len() {
        return false;
    }
    let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    entries.iter().all(|(expected_key, expected_value)| {
        // SAFETY: a dict, and we are attached; `at` is 0 at first. The borrowed references are only
        // compared.
        let has_next =
            unsafe { ffi::PyDict_Next(dict.as_ptr(), &raw mut at, &raw mut key, &raw mut value) != 0 };
        has_next && key == expected_key.as_ptr() && value == expected_value.as_ptr()
    })
}

/// Returns the name of an object's type, for messages.
pub(crate) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

/// Returns the number of references to an object; 1 if the caller has the only one.
pub(crate) fn reference_count<T>(object: &Py<T>, _py: Python<'_>) -> isize {
    // SAFETY: a valid object, and we are attached.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// Set in a process forked by the application; see [`exit_forked_child`].
static FORKED: AtomicBool = AtomicBool::new(false);

/// Returns whether this process was forked by the application.
pub(crate) fn is_forked_child() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Clears the mark in a worker forked by the zygote.
pub(crate) fn clear_forked_child() {
    FORKED.store(false, Ordering::Relaxed);
}

/// Installs a fork hook that marks children for [`is_forked_child`] and restores their signal
/// handlers. Called once per interpreter: forked processes inherit the hook.
pub(crate) fn register_fork_hook(py: Python<'_>) -> PyResult<()> {
    let mark = PyCFunction::new_closure(py, None, None, |arguments, _| {
        FORKED.store(true, Ordering::Relaxed);
        dispositions::restore(arguments.py())
    })?;
    let arguments = PyDict::new(py);
    arguments.set_item("after_in_child", mark)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&arguments)).map(drop)
}

/// Exits a process forked by the application, as [`exit_forked_child`] does. Called before a frame
/// is sent, and before a lock is taken that another thread may have held during the fork.
pub(crate) fn exit_if_forked_child(py: Python<'_>, error: Option<&PyErr>) {
    if is_forked_child() {
        exit_forked_child(py, error);
    }
}

/// Exits a child process that the application has forked and in which it has raised (`sys.exit()`
/// after `os.fork()`) or returned. Only the parent may use the channel.
pub(crate) fn exit_forked_child(py: Python<'_>, error: Option<&PyErr>) -> ! {
    let error = error.map(|error| error.clone_ref(py).into_value(py));
    let failed =
        load_py(py).and_then(|module| module.call_method1(intern!(py, "exit_forked_child"), (error,)));
    // Returns only if the call failed.
    drop(failed);
    exit_now(EX_SOFTWARE)
}

/// Exits at once: no destructors, no atexit, no flush. Used when the daemon is gone or has violated
/// the protocol.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Returns the exception of `raise SystemExit(code)`.
pub(crate) fn system_exit(code: i32) -> PyErr {
    PySystemExit::new_err(code)
}

/// Returns the module of `load.py`.
pub(crate) fn load_py(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("load.py"), c"<rgun>/load.py", c"rgun_worker.load")
}

/// Returns a module whose source is embedded in the extension; runs it on first use.
pub(crate) fn embedded_module<'py>(
    py: Python<'py>,
    module: &'static PyOnceLock<Py<PyModule>>,
    source: &str,
    file: &CStr,
    name: &CStr,
) -> PyResult<&'py Bound<'py, PyModule>> {
    module
        .get_or_try_init(py, || {
            let source = CString::new(source)?;
            PyModule::from_code(py, &source, file, name).map(Bound::unbind)
        })
        .map(|module| module.bind(py))
}

/// An exception as text, within the limits of [`AppError`].
#[derive(Debug)]
pub(crate) struct FormattedError {
    pub(crate) summary: String,
    pub(crate) traceback: String,
}

impl FormattedError {
    /// Creates an error that is not an exception.
    pub(crate) fn from_message(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), traceback: String::new() }
    }

    /// Formats an exception as `traceback` does. An exception that cannot be formatted is named by
    /// its type.
    pub(crate) fn from_exception(py: Python<'_>, error: &PyErr) -> Self {
        let formatted = load_py(py)
            .and_then(|module| module.getattr(intern!(py, "describe")))
            // Before Python 3.12 only `into_value` attaches the traceback to the exception; `value`
            // does not.
            .and_then(|describe| describe.call1((error.clone_ref(py).into_value(py),)))
            .and_then(|pair| pair.extract::<(String, String)>());
        if let Ok((summary, traceback)) = formatted {
            return Self {
                summary: cut_middle(summary, AppError::MAX_SUMMARY_BYTES),
                traceback: cut_middle(traceback, AppError::MAX_TRACEBACK_BYTES),
            };
        }
        let name = error.get_type(py).name().map_or_else(|_| "exception".to_owned(), |name| name.to_string());
        Self::from_message(format!("{name} (its text could not be formatted)"))
    }

    /// Borrows the error for an `AppRaised` frame.
    pub(crate) fn as_app_error(&self) -> AppError<'_> {
        AppError { summary: &self.summary, traceback: &self.traceback }
    }
}

/// Removes the middle of a text that is longer than `max` bytes: the start shows the origin, the
/// end the error.
fn cut_middle(text: String, max: usize) -> String {
    const MARK: &str = "\n  [...]\n";
    if text.len() <= max {
        return text;
    }
    let half = (max - MARK.len()) / 2;
    let head = &text[..text.floor_char_boundary(half)];
    let tail = &text[text.ceil_char_boundary(text.len() - half)..];
    format!("{head}{MARK}{tail}")
}

/// Writes one line to the application's stderr. If stderr is closed, the error is passed to
/// `sys.unraisablehook`.
pub(crate) fn warn(py: Python<'_>, text: &str) {
    let written = py
        .import(intern!(py, "sys"))
        .and_then(|sys| sys.getattr(intern!(py, "stderr")))
        .and_then(|stderr| stderr.call_method1(intern!(py, "write"), (format!("rgun: {text}\n"),)));
    if let Err(error) = written {
        error.write_unraisable(py, None);
    }
}

/// Writes one line to stderr, the first time only.
pub(crate) fn warn_once(py: Python<'_>, warned: &AtomicBool, text: &str) {
    if !warned.swap(true, Ordering::Relaxed) {
        warn(py, text);
    }
}
