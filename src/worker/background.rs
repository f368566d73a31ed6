//! A native thread for commands that need Python but no slot: stacks, loaded files, the hooks
//! `worker_abort` and `child_exit`, and returning memory while memory is short.
//!
//! Started on demand. The control thread submits jobs and never waits for them, since a job needs
//! the GIL and a hook may run for any length of time.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use rgun_channel::control::{Report, send};
use rgun_channel::frame::ExchangeId;

use crate::hooks::Hooks;
use crate::python::lock;
use crate::worker::Worker;
use crate::{asgi, memory, sources, stacks};

/// A job of the background thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Job {
    /// [`Command::DumpStacks`](rgun_channel::control::Command::DumpStacks).
    Stacks(Option<ExchangeId>),
    /// [`Command::ReportSources`](rgun_channel::control::Command::ReportSources).
    Sources,
    /// [`Command::ChildExited`](rgun_channel::control::Command::ChildExited).
    ChildExited { pid: u32, worker: u16, incarnation: u64 },
    /// [`Command::Abort`](rgun_channel::control::Command::Abort).
    Abort,
}

impl Job {
    /// Returns the answer to a job that cannot be performed; `None` if the daemon waits for none.
    fn failed(self) -> Option<Report> {
        match self {
            Self::Stacks(_) => Some(Report::StacksDumped(false)),
            Self::Abort => Some(Report::AbortHookEnded),
            Self::ChildExited { .. } | Self::Sources => None,
        }
    }
}

/// Interval at which a worker that is to return memory is checked until it is idle.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Time for which the thread waits until the worker is idle: the time for which the daemon regards
/// memory as short after a notification.
const TRIM_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of queued jobs; bounds the memory if a hook never returns.
const MAX_JOBS: usize = 64;

/// The thread and its queue.
#[derive(Debug)]
pub(crate) struct BackgroundThread {
    worker: &'static Worker,
    hooks: &'static Hooks,
    /// The ASGI application, once it can report the stacks of its tasks. Unset in a WSGI worker.
    asgi: OnceLock<&'static asgi::Application>,
    state: Mutex<JobQueue>,
    changed: Condvar,
    collection: Mutex<LoopCollection>,
}

#[derive(Debug, Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    /// A job is being performed.
    running: bool,
    /// Memory is to be returned, see [`BackgroundThread::request_trim`].
    trim: Option<TrimRequest>,
    /// No more jobs are accepted; the thread ends after the last one.
    closed: bool,
    thread: Option<JoinHandle<()>>,
}

/// A [`Command::TrimMemory`](rgun_channel::control::Command::TrimMemory) that has not been carried
/// out.
#[derive(Debug, Clone, Copy)]
struct TrimRequest {
    /// When to check again whether the worker is idle.
    next_check: Instant,
    /// When to give up.
    until: Instant,
    /// Nothing has been checked yet.
    is_new: bool,
}

/// The next step of the thread.
enum Step {
    Job(Job),
    Trim,
    End,
}

/// The progress of a collection on the event loop of an ASGI worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LoopCollection {
    /// Not requested, or the worker was not idle.
    #[default]
    None,
    Scheduled,
    Finished,
}

impl BackgroundThread {
    /// Creates the queue; the thread is started with the first job.
    pub(crate) fn new(worker: &'static Worker, hooks: &'static Hooks) -> Self {
        Self {
            worker,
            hooks,
            asgi: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            collection: Mutex::default(),
        }
    }

    /// Sets the ASGI application, which knows the stacks of its tasks.
    pub(crate) fn set_asgi(&self, application: &'static asgi::Application) {
        // Called once: a worker serves one application.
        let _ = self.asgi.set(application);
    }

    /// Queues a job. If it cannot be queued and the daemon expects a report (stacks, abort),
    /// reports the failure at once.
    pub(crate) fn submit(&'static self, job: Job) {
        let is_queued = {
            let state = &mut *lock(&self.state);
            let can_queue = !state.closed && state.jobs.len() < MAX_JOBS && state.ensure_thread(self);
            if can_queue {
                state.jobs.push_back(job);
            }
            can_queue
        };
        if is_queued {
            self.changed.notify_all();
        } else if let Some(report) = job.failed() {
            self.send_report(&report);
        }
    }

    /// Makes the thread collect garbage and trim the heap as soon as no request is running. An ASGI
    /// worker, which may be busy for long, also trims its heap at once. Gives up after
    /// [`TRIM_TIMEOUT`].
    pub(crate) fn request_trim(&'static self) {
        let state = &mut *lock(&self.state);
        if state.closed || !state.ensure_thread(self) {
            return;
        }
        let mut collection = lock(&self.collection);
        if *collection == LoopCollection::Finished {
            // The collection of an earlier request, which had timed out.
            *collection = LoopCollection::None;
        }
        let now = Instant::now();
        state.trim = Some(TrimRequest { next_check: now, until: now + TRIM_TIMEOUT, is_new: true });
        self.changed.notify_all();
    }

    /// Ends the thread after its last job. Stops waiting for it after the timeout. Called without
    /// the GIL.
    pub(crate) fn close(&self, timeout: Duration) {
        let thread = {
            let mut state = lock(&self.state);
            state.closed = true;
            self.changed.notify_all();
            let busy = |state: &mut JobQueue| state.running || !state.jobs.is_empty();
            let waited = self.changed.wait_timeout_while(state, timeout, busy);
            let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() { None } else { state.thread.take() }
        };
        if let Some(thread) = thread {
            // An error is a panic of the thread, which has been printed.
            let _ = thread.join();
        }
    }

    /// Waits for the next step.
    fn next_step(&self) -> Step {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running = true;
                return Step::Job(job);
            }
            if state.closed {
                return Step::End;
            }
            state = match state.trim {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(trim) => {
                    let pause = trim.next_check.saturating_duration_since(Instant::now());
                    if pause.is_zero() {
                        return Step::Trim;
                    }
                    self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Checks whether the worker is idle, and then returns memory.
    fn trim_if_idle(&'static self) {
        let is_new = lock(&self.state).trim.is_some_and(|trim| trim.is_new);
        let is_done = match self.asgi.get() {
            Some(application) => {
                if is_new {
                    // Only the free pages: the collector would delay all running requests.
                    memory::trim_heap();
                }
                self.trim_event_loop(application)
            }
            None => self.trim_threads(),
        };
        let now = Instant::now();
        let state = &mut *lock(&self.state);
        state.trim = state.trim.filter(|trim| !is_done && now < trim.until);
        if let Some(trim) = &mut state.trim {
            trim.next_check = now + IDLE_CHECK_INTERVAL;
            trim.is_new = false;
        }
    }

    /// Collects garbage on this thread if no thread runs a request. Returns whether that is done.
    fn trim_threads(&self) -> bool {
        let collect = |py: Python<'_>| {
            let is_idle = self.worker.are_threads_idle();
            if is_idle {
                memory::collect_garbage(py);
            }
            is_idle
        };
        // None: the interpreter is shutting down.
        let is_done = self.worker.are_threads_idle() && Python::try_attach(collect).unwrap_or(true);
        if is_done {
            memory::trim_heap();
        }
        is_done
    }

    /// Collects garbage on the event loop, whose objects finalizers may use, if no request is
    /// running. Returns whether that is done.
    fn trim_event_loop(&'static self, application: &'static asgi::Application) -> bool {
        let collection = *lock(&self.collection);
        match collection {
            LoopCollection::Scheduled => return false,
            LoopCollection::Finished => *lock(&self.collection) = LoopCollection::None,
            LoopCollection::None => {
                *lock(&self.collection) = LoopCollection::Scheduled;
                let finished = move |is_idle: bool| {
                    let outcome = if is_idle { LoopCollection::Finished } else { LoopCollection::None };
                    *lock(&self.collection) = outcome;
                };
                let scheduled = Python::try_attach(|py| {
                    // The loop is closed: the worker exits.
                    application.schedule_collection(py, finished).is_ok()
                });
                return scheduled != Some(true);
            }
        }
        memory::trim_heap();
        true
    }

    fn run(&'static self) {
        // The control thread, which started this thread, blocks all signals.
        self.worker.signals.set();
        loop {
            let job = match self.next_step() {
                Step::Job(job) => job,
                Step::Trim => {
                    self.trim_if_idle();
                    continue;
                }
                Step::End => return,
            };
            // None: the interpreter is shutting down.
            for report in Python::try_attach(|py| self.perform(py, job)).unwrap_or_default() {
                self.send_report(&report);
            }
            lock(&self.state).running = false;
            self.changed.notify_all();
        }
    }

    fn perform(&self, py: Python<'_>, job: Job) -> Vec<Report> {
        let reports = match job {
            Job::Stacks(None) => self.dump_all(py).map(|()| vec![Report::StacksDumped(true)]),
            Job::Stacks(Some(exchange)) => {
                self.dump_exchange(py, exchange).map(|written| vec![Report::StacksDumped(written)])
            }
            Job::ChildExited { pid, worker: number, incarnation } => self
                .hooks
                .child_exit(py, pid, number, incarnation)
                .map(|warning| warning.map(Report::Warning).into_iter().collect()),
            Job::Abort => self.hooks.abort(py).map(|warning| {
                warning.map(Report::Warning).into_iter().chain([Report::AbortHookEnded]).collect()
            }),
            Job::Sources => sources::new_reports(py),
        };
        reports.unwrap_or_else(|error| {
            error.write_unraisable(py, None);
            job.failed().into_iter().collect()
        })
    }

    /// Writes the stacks of all threads and, if lifespan's startup or shutdown runs, of its task.
    fn dump_all(&self, py: Python<'_>) -> PyResult<()> {
        let file = &self.worker.process.stacks;
        stacks::write_all(py, file)?;
        match asgi::lifespan_stack(py) {
            Ok(Some(stack)) => stacks::write_text(py, file, &format!("\n{stack}")).map(drop),
            Ok(None) => Ok(()),
            Err(error) => {
                // The stacks of the threads are written.
                error.write_unraisable(py, None);
                Ok(())
            }
        }
    }

    /// Writes the stack of an exchange's task or thread. Returns false if the exchange does not
    /// run, or has ended meanwhile.
    fn dump_exchange(&self, py: Python<'_>, exchange: ExchangeId) -> PyResult<bool> {
        if let Some(application) = self.asgi.get() {
            let Some(stack) = application.stack_of(py, exchange)? else { return Ok(false) };
            return stacks::write_text(
                py,
                &self.worker.process.stacks,
                &format!("Task (most recent call last):\n{stack}"),
            );
        }
        let Some(thread) = self.worker.thread_of(exchange) else { return Ok(false) };
        let written = stacks::write_one(py, &self.worker.process.stacks, thread)?;
        Ok(written && self.worker.thread_of(exchange) == Some(thread))
    }

    fn send_report(&self, report: &Report) {
        // An error means that the daemon is gone; the control thread notices this, too, and ends
        // the process.
        let _ = send(&self.worker.process.control, &report.encode(), &[]);
    }
}

impl JobQueue {
    /// Starts the thread unless it runs. Returns false if it cannot be started.
    fn ensure_thread(&mut self, background: &'static BackgroundThread) -> bool {
        if self.thread.is_none() {
            let builder = Builder::new().name("rgun-background".to_owned()).stack_size(STACK_BYTES);
            self.thread = builder.spawn(move || background.run()).ok();
        }
        self.thread.is_some()
    }
}

/// Stack size of the thread, bytes: the default of Python threads, since it runs Python code.
const STACK_BYTES: usize = 8 * 1024 * 1024;
