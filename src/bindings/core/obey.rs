//! Commands of other processes, which threads of their own deal with: workers may all be busy or
//! stuck, and a command that blocks must not hold up the courier.
//!
//! A thread is started by a command, and ends when none is left. A process that gets none has no
//! thread for them.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use flask_delay_engine::Mutex;
use flask_delay_journal::Command;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::durable::Link;
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::call::call_with;

/// So many commands are dealt with at once; the others wait.
const MOST: usize = 8;

/// The commands of a process that are not dealt with, and how many threads there are. The lock is a
/// leaf.
#[derive(Default)]
pub(crate) struct Obeying(Mutex<(VecDeque<Command>, usize)>);

impl Obeying {
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

/// Has a thread deal with a command. Returns at once.
pub(crate) fn obey(link: &Arc<Link>, command: Command) {
    if !link.obeying().add(command) {
        return;
    }
    let weak = Arc::downgrade(link);
    let started = std::thread::Builder::new()
        .name("delay-command".to_owned())
        .spawn(move || run(&weak));
    if let Err(error) = started {
        log::error!("no thread for what another process asks: {error}");
        // For the next command, and so for this one.
        link.obeying().0.lock().1 -= 1;
    }
}

fn run(link: &Weak<Link>) {
    while let Some(link) = link.upgrade()
        && let Some(command) = link.obeying().next()
    {
        // Nothing if the interpreter is gone. A reference to the link may keep Python's objects.
        attach(move |py| {
            if let Err(error) = deal_with(py, &link, command) {
                error.write_unraisable(py, None);
            }
            drop(link);
        });
    }
}

fn deal_with(py: Python<'_>, link: &Link, command: Command) -> PyResult<()> {
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
    call_with(link.hooks.obey.bind(py), arguments.each_ref()).map(drop)
}
