//! A lock for writing to a stream: one thread at a time has the turn.
//!
//! A write releases the GIL while the pipe is full, so the GIL is not enough. A mutex would block a
//! signal handler that prints while its own thread writes, and would stay locked in a forked process.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::gil_cell::GilCell;
use crate::python::lock;

/// The turns of a stream.
#[derive(Debug, Default)]
pub(crate) struct Turns(GilCell<State>);

#[derive(Debug, Default)]
struct State {
    /// The thread that has the turn.
    owner: Option<u64>,
    n_waiting: usize,
    waiting: Arc<Waiting>,
}

/// Where threads wait, without the GIL.
#[derive(Debug, Default)]
struct Waiting {
    /// Number of turns that have ended while a thread waited.
    n_ended: Mutex<u64>,
    ended: Condvar,
}

/// A turn of a thread. Ends when it is dropped.
pub(crate) struct Turn<'a, 'py> {
    /// `None` if the thread had the turn before.
    turns: Option<&'a Turns>,
    py: Python<'py>,
}

impl Turns {
    /// Waits for the turn, without the GIL. Returns at once if the thread has it.
    pub(crate) fn wait<'a, 'py>(&'a self, py: Python<'py>, thread: u64) -> Turn<'a, 'py> {
        loop {
            if let Some(turn) = self.try_begin(py, thread) {
                return turn;
            }
            self.wait_for_end(py, Duration::MAX);
        }
    }

    /// Waits until no thread has or wants the turn, at most for the timeout.
    pub(crate) fn wait_for_all(&self, py: Python<'_>, thread: u64, timeout: Duration) {
        let start = Instant::now();
        loop {
            // Its end wakes the next thread.
            let had_turn = self.try_begin(py, thread).is_some();
            let left = timeout.saturating_sub(start.elapsed());
            if (had_turn && self.0.borrow(py).n_waiting == 0) || left.is_zero() {
                return;
            }
            self.wait_for_end(py, left);
        }
    }

    /// Begins a turn. `None` if another thread has it.
    fn try_begin<'a, 'py>(&'a self, py: Python<'py>, thread: u64) -> Option<Turn<'a, 'py>> {
        let owner = &mut self.0.borrow_mut(py).owner;
        let turns = if owner.is_none() { Some(self) } else { None };
        let is_own = *owner.get_or_insert(thread) == thread;
        is_own.then_some(Turn { turns, py })
    }

    /// Waits until a turn ends, without the GIL.
    fn wait_for_end(&self, py: Python<'_>, timeout: Duration) {
        let (waiting, n_ended) = {
            let state = &mut *self.0.borrow_mut(py);
            state.n_waiting += 1;
            (Arc::clone(&state.waiting), *lock(&state.waiting.n_ended))
        };
        py.detach(|| waiting.wait(n_ended, timeout));
        self.0.borrow_mut(py).n_waiting -= 1;
    }

    /// Forgets all threads, in a forked process.
    pub(crate) fn reset(&self, py: Python<'_>) {
        self.0.put(py, State::default());
    }
}

impl Waiting {
    /// Waits until a turn has ended after the first `n_ended` ones.
    fn wait(&self, n_ended: u64, timeout: Duration) {
        let ended = self.ended.wait_timeout_while(lock(&self.n_ended), timeout, |now| *now == n_ended);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let Some(turns) = self.turns else { return };
        let state = &mut *turns.0.borrow_mut(self.py);
        state.owner = None;
        if state.n_waiting > 0 {
            *lock(&state.waiting.n_ended) += 1;
            state.waiting.ended.notify_one();
        }
    }
}
