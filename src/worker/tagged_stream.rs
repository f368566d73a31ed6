//! Writes printed lines to stdout or stderr: each whole, and with the tag of its request
//! ([`rgun_channel::log_record`]).
//!
//! `print(a, b)` calls `write` four times: for a, a space, b and a line feed. Between two of these calls
//! another thread may print. It may do so even within a call: if the stream's buffer is full,
//! `io.TextIOWrapper.write` writes it, without the GIL, *before* it adds the text; and of two threads that
//! have taken texts out of the buffer, the second may write first. The order of calls is therefore not the
//! order of bytes, and earlier calls do not tell which request has begun the line to which a text is added.
//!
//! For this reason a text is kept until its line ends, or until its thread calls `flush`; and one
//! thread at a time passes whole lines to the stream ([`Turns`]). Text that goes around the two methods
//! has no request: `sys.stdout.buffer`, `os.write`, other processes. Such text is logged as a part of a
//! line if it comes after a text that was flushed before its line has ended.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use rgun_channel::log_record::{SEPARATOR, TAG};

use crate::current_request::current_request;
use crate::fastcall::{Arguments, FastFunction, bind, call};
use crate::gil_cell::GilCell;
use crate::process::Process;
use crate::python::is_forked_child;
use crate::turn::Turns;

/// Maximum number of bytes of a line that are kept; a longer line is written in parts.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Maximum number of lines that are kept: threads may end without ending their lines.
const MAX_KEPT_LINES: usize = 256;

/// Maximum wait for threads that write while the interpreter exits.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1);

/// stdout or stderr. Called itself, it writes a record of `logging`.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct TaggedStream {
    stream: Py<PyAny>,
    /// The stream's own methods.
    own_write: Py<PyAny>,
    own_flush: Py<PyAny>,
    /// The functions that are the stream's attributes `write` and `flush`.
    write_function: GilCell<Option<Py<PyAny>>>,
    flush_function: GilCell<Option<Py<PyAny>>>,
    fd: RawFd,
    process: &'static Process,
    marker: &'static str,
    /// The lines that have not ended, at most one of each thread.
    kept: GilCell<Vec<PrintedText>>,
    /// The last line of the stream.
    last: GilCell<LastLine>,
    turns: Turns,
}

/// A text that a thread has printed: whole lines, or the beginning of a line.
#[derive(Debug)]
struct PrintedText {
    writer: Writer,
    /// As UTF-8; lone surrogates have three bytes.
    bytes: Vec<u8>,
}

/// The thread that has printed a text, and the request that it served.
#[derive(Debug)]
struct Writer {
    thread: u64,
    request: Option<Py<PyString>>,
}

/// The end of what has been passed to a stream.
#[derive(Debug, Default)]
enum LastLine {
    Ended,
    /// A text without a line feed.
    Open(Writer),
    /// A write has not ended, or has failed, or the stream had another file.
    #[default]
    Unknown,
}

/// Replaces the methods `write` and `flush` of a stream: both are attributes of the stream, which keeps its
/// type, its buffer and its other methods.
///
/// # Errors
/// A Python error.
pub(crate) fn replace_methods(
    stream: &Bound<'_, PyAny>,
    fd: RawFd,
    process: &'static Process,
    marker: &'static str,
) -> PyResult<Py<TaggedStream>> {
    let py = stream.py();
    let tagged = TaggedStream {
        stream: stream.clone().unbind(),
        own_write: stream.getattr(intern!(py, "write"))?.unbind(),
        own_flush: stream.getattr(intern!(py, "flush"))?.unbind(),
        write_function: GilCell::new(None),
        flush_function: GilCell::new(None),
        fd,
        process,
        marker,
        kept: GilCell::new(Vec::new()),
        last: GilCell::new(LastLine::Ended),
        turns: Turns::default(),
    };
    let tagged = Bound::new(py, tagged)?;
    let (write, flush) = (bind::<TaggedStream>(&tagged)?, bind::<Flush>(&tagged)?);
    stream.setattr(intern!(py, "write"), &write)?;
    stream.setattr(intern!(py, "flush"), &flush)?;
    tagged.get().write_function.put(py, Some(write));
    tagged.get().flush_function.put(py, Some(flush));
    Ok(tagged.unbind())
}

impl TaggedStream {
    /// Returns whether an object is the function that has replaced `write`.
    pub(crate) fn has_function(&self, object: &Bound<'_, PyAny>) -> bool {
        self.write_function.borrow(object.py()).as_ref().is_some_and(|function| function.is(object))
    }

    /// Returns whether the stream still writes to the daemon.
    pub(crate) fn is_own_pipe(&self, py: Python<'_>) -> bool {
        self.process.is_own_pipe(py, self.fd)
    }

    /// Restores the stream's own methods, and writes what threads have printed. Called before the
    /// interpreter shuts down: then no code of this extension can run.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn restore_methods(&self, py: Python<'_>) -> PyResult<()> {
        let stream = self.stream.bind(py);
        let functions =
            [(intern!(py, "write"), &self.write_function), (intern!(py, "flush"), &self.flush_function)];
        for (name, function) in functions {
            // The application may have replaced it.
            let current = stream.getattr(name)?;
            if function.borrow(py).as_ref().is_some_and(|function| function.is(&current)) {
                stream.delattr(name)?;
            }
        }
        if is_forked_child() {
            return Ok(());
        }
        self.turns.wait_for_all(py, thread_number(), RESTORE_TIMEOUT);
        self.pass_on(py, &self.kept.take(py))?;
        if self.is_own_pipe(py) && matches!(*self.last.borrow(py), LastLine::Open(_)) {
            // What is printed later has no request.
            call(self.own_write.bind(py), [PyString::new(py, &tag(self.marker, "")).as_any()])?;
        }
        Ok(())
    }

    /// Forgets what threads have printed, in a worker that a zygote has forked.
    pub(crate) fn reset(&self, py: Python<'_>) {
        self.kept.put(py, Vec::new());
        self.last.put(py, LastLine::Ended);
        self.turns.reset(py);
    }
}

#[pymethods]
impl TaggedStream {
    /// Writes text; returns its length.
    #[pyo3(signature = (text, /))]
    fn write<'py>(slf: &Bound<'py, Self>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        let string = text.cast::<PyString>().ok().filter(|_| !is_forked_child());
        let Some(string) = string else { return call(own.own_write.bind(py), [text]) };
        let length = string.len()?;
        if length > 0 {
            own.print(py, string)?;
        }
        Ok(length.into_pyobject(py)?.into_any())
    }

    /// Writes what this thread has printed, and flushes the stream.
    fn flush<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        if is_forked_child() {
            return own.own_flush.bind(py).call0();
        }
        let thread = thread_number();
        let _turn = own.turns.wait(py, thread);
        own.pass_on(py, own.take_kept(py, thread).as_slice())?;
        own.own_flush.bind(py).call0()
    }

    /// Writes a record, which ends a line that has not ended.
    #[pyo3(signature = (record, /))]
    fn __call__<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = record.py();
        if !is_forked_child() {
            let thread = thread_number();
            let _turn = self.turns.wait(py, thread);
            self.pass_on(py, self.take_kept(py, thread).as_slice())?;
            self.last.put(py, LastLine::Unknown);
            let written = call(self.own_write.bind(py), [record])?;
            self.last.put(py, LastLine::Ended);
            return Ok(written);
        }
        call(self.own_write.bind(py), [record])
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

impl TaggedStream {
    /// Keeps a text, or passes it on with what this thread has printed before, up to its last line feed.
    fn print(&self, py: Python<'_>, string: &Bound<'_, PyString>) -> PyResult<()> {
        let request = current_request(py)?;
        let thread = thread_number();
        let (mut bytes, is_unicode) = encode(string)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let is_kept =
            end < bytes.len() || self.kept.borrow(py).iter().any(|text| text.writer.thread == thread);
        if is_kept && !bytes.is_ascii() {
            self.check_encoding(string, is_unicode)?;
        }
        let mut texts = Vec::with_capacity(2);
        // From here on no Python code runs until the texts are passed on.
        let mut text = match self.take_kept(py, thread) {
            Some(kept) if kept.writer.has_request(py, request.as_ref())? => kept,
            other => {
                texts.extend(other);
                PrintedText {
                    writer: Writer { thread, request: request.map(Bound::unbind) },
                    bytes: Vec::new(),
                }
            }
        };
        let rest = bytes.split_off(end);
        if end > 0 {
            let writer = text.writer.clone_ref(py);
            text.bytes.append(&mut bytes);
            texts.push(std::mem::replace(&mut text, PrintedText { writer, bytes: Vec::new() }));
        }
        text.bytes.extend_from_slice(&rest);
        if text.bytes.len() > MAX_KEPT_BYTES {
            texts.push(text);
        } else if !text.bytes.is_empty() {
            let kept = &mut *self.kept.borrow_mut(py);
            if kept.len() >= MAX_KEPT_LINES {
                texts.push(kept.remove(0));
            }
            kept.push(text);
        }
        if texts.is_empty() {
            return Ok(());
        }
        let _turn = self.turns.wait(py, thread);
        self.pass_on(py, &texts)
    }

    /// Removes and returns what a thread has printed since its last line feed.
    fn take_kept(&self, py: Python<'_>, thread: u64) -> Option<PrintedText> {
        let kept = &mut *self.kept.borrow_mut(py);
        let at = kept.iter().position(|text| text.writer.thread == thread)?;
        Some(kept.remove(at))
    }

    /// Raises the exception that the stream would raise, because it gets the text later or with others.
    fn check_encoding(&self, string: &Bound<'_, PyString>, is_unicode: bool) -> PyResult<()> {
        let py = string.py();
        let stream = self.stream.bind(py);
        let encoding = stream.getattr(intern!(py, "encoding"))?;
        if is_unicode && encoding.eq(intern!(py, "utf-8"))? {
            return Ok(());
        }
        let errors = stream.getattr(intern!(py, "errors"))?;
        string.call_method1(intern!(py, "encode"), (encoding, errors)).map(drop)
    }

    /// Passes texts to the stream in one call. Called by the thread that has the turn.
    fn pass_on(&self, py: Python<'_>, texts: &[PrintedText]) -> PyResult<()> {
        if texts.is_empty() {
            return Ok(());
        }
        let is_own = self.is_own_pipe(py);
        let mut last = self.last.take(py);
        let mut bytes = Vec::new();
        for text in texts {
            if is_own {
                text.add_to(&mut bytes, py, &last, self.marker)?;
            } else {
                bytes.extend_from_slice(&text.bytes);
            }
            last = if text.bytes.ends_with(b"\n") {
                LastLine::Ended
            } else {
                LastLine::Open(text.writer.clone_ref(py))
            };
        }
        call(self.own_write.bind(py), [&decode(py, &bytes)?])?;
        if is_own {
            self.last.put(py, last);
        }
        Ok(())
    }
}

impl PrintedText {
    /// Appends the text, with the tag of its request before each line unless it continues the last one.
    fn add_to(&self, bytes: &mut Vec<u8>, py: Python<'_>, last: &LastLine, marker: &str) -> PyResult<()> {
        let request = self.writer.request.as_ref().map(|request| request.bind(py));
        let id = request.map(PyStringMethods::to_cow).transpose()?.unwrap_or_default();
        let tag = tag(marker, &id);
        let is_continued = match last {
            LastLine::Open(writer) if writer.thread == self.writer.thread => {
                writer.has_request(py, request)?
            }
            _ => false,
        };
        let is_first_tagged = !is_continued && (request.is_some() || !matches!(last, LastLine::Ended));
        bytes.reserve(self.bytes.len() + tag.len());
        for (index, line) in self.bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let is_tagged = if index == 0 { is_first_tagged } else { request.is_some() };
            if is_tagged {
                bytes.extend_from_slice(tag.as_bytes());
            }
            bytes.extend_from_slice(line);
        }
        Ok(())
    }
}

impl Writer {
    fn has_request(&self, py: Python<'_>, request: Option<&Bound<'_, PyString>>) -> PyResult<bool> {
        match (&self.request, request) {
            (Some(own), Some(request)) => request.as_any().eq(own.bind(py)),
            (None, None) => Ok(true),
            _ => Ok(false),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { thread: self.thread, request: self.request.as_ref().map(|request| request.clone_ref(py)) }
    }
}

impl FastFunction for TaggedStream {
    type Object = Self;
    const NAME: &'static CStr = c"write";

    fn call<'py>(
        object: &Bound<'py, Self>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [Some(text), None, None] = arguments else { return None };
        Some(Self::write(object, &text))
    }
}

/// The function that replaces `flush`.
struct Flush;

impl FastFunction for Flush {
    type Object = TaggedStream;
    const NAME: &'static CStr = c"flush";

    fn call<'py>(
        object: &Bound<'py, TaggedStream>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [None, None, None] = arguments else { return None };
        Some(TaggedStream::flush(object))
    }
}

/// Returns the tag of a request; of none if the id is empty.
fn tag(marker: &str, id: &str) -> String {
    format!("{marker}{TAG}{id}{SEPARATOR}", TAG = char::from(TAG), SEPARATOR = char::from(SEPARATOR))
}

/// Returns the number of this thread. Unlike the ids of the system, no later thread has it again.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

/// Returns a text as bytes, and whether it is free of lone surrogates.
fn encode(text: &Bound<'_, PyString>) -> PyResult<(Vec<u8>, bool)> {
    if let Ok(text) = text.to_cow() {
        return Ok((text.into_owned().into_bytes(), true));
    }
    let py = text.py();
    let encode = py.get_type::<PyString>().getattr(intern!(py, "encode"))?;
    Ok((encode.call1((text, intern!(py, "utf-8"), intern!(py, "surrogatepass")))?.extract()?, false))
}

/// Returns the text for bytes of [`encode`].
fn decode<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Ok(PyString::new(py, text).into_any());
    }
    let encoding = (intern!(py, "utf-8"), intern!(py, "surrogatepass"));
    PyBytes::new(py, bytes).call_method1(intern!(py, "decode"), encoding)
}
