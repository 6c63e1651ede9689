//! Commands of other processes, which threads of their own deal with: workers may all be busy or
//! stuck, and a command that blocks must not hold up the courier.
//!
//! A thread is started by a command, and ends when none is left. A process that gets none has no
//! thread for them.

use std::collections::VecDeque;
use std::sync::Arc;

use flask_delay_engine::Mutex;
use flask_delay_journal::Command;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::bindings::ffi::call::call_with;

/// So many commands are dealt with at once; the others wait.
const MOST: usize = 8;

/// The commands of a process that are not dealt with, and how many threads there are. The lock is a
/// leaf.
#[derive(Clone, Default)]
pub(crate) struct Obeying(Arc<Mutex<(VecDeque<Command>, usize)>>);

impl Obeying {
    /// Has a thread deal with a command. Returns at once. `deal` is false if no more are wanted.
    pub(crate) fn take(&self, command: Command, deal: impl Fn(Command) -> bool + Send + 'static) {
        if !self.add(command) {
            return;
        }
        let own = self.clone();
        let started = std::thread::Builder::new()
            .name("delay-command".to_owned())
            .spawn(move || while own.next().is_some_and(&deal) {});
        if let Err(error) = started {
            log::error!("no thread for what another process asks: {error}");
            // For the next command, and so for this one.
            self.0.lock().1 -= 1;
        }
    }

    /// Notes a command; whether another thread is needed for it.
    fn add(&self, command: Command) -> bool {
        let (commands, threads) = &mut *self.0.lock();
        commands.push_back(command);
        let is_needed = *threads < MOST;
        *threads += usize::from(is_needed);
        is_needed
    }

    /// The next command. Without one, the thread must end.
    fn next(&self) -> Option<Command> {
        let (commands, threads) = &mut *self.0.lock();
        let next = commands.pop_front();
        *threads -= usize::from(next.is_none());
        next
    }
}

/// Calls what deals with a command.
pub(crate) fn obey(deal: &Bound<'_, PyAny>, command: Command) -> PyResult<()> {
    let py = deal.py();
    let Command {
        number,
        order,
        is_open,
    } = command;
    let arguments = [
        number.into_bound_py_any(py)?,
        order.verb.into_bound_py_any(py)?,
        order.target.into_bound_py_any(py)?,
        order.actor.into_bound_py_any(py)?,
        is_open.into_bound_py_any(py)?,
    ];
    call_with(deal, arguments.each_ref()).map(drop)
}
