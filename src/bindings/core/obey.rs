//! Commands and questions of other processes, which threads of their own deal with: workers may all
//! be busy or stuck, and a command that blocks must not hold up the courier.
//!
//! A thread is started by a wish, and ends when none is left. A process that gets none has no
//! thread for them.

use std::collections::VecDeque;
use std::sync::Arc;

use flask_delay_engine::Mutex;
use flask_delay_journal::Command;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::bindings::ffi::call::call_with;

/// So many wishes are dealt with at once; the others wait.
const MOST: usize = 8;

/// What another process wants of this one.
pub(crate) enum Wish {
    Command(Command),
    /// To know of its tasks, since that time.
    Show(i64),
}

/// The wishes that are not dealt with, and how many threads there are. The lock is a leaf.
#[derive(Clone, Default)]
pub(crate) struct Obeying(Arc<Mutex<(VecDeque<Wish>, usize)>>);

impl Obeying {
    /// Has a thread deal with a wish. Returns at once. `deal` is false if no more are wanted.
    pub(crate) fn take(&self, wish: Wish, deal: impl Fn(Wish) -> bool + Send + 'static) {
        if !self.add(wish) {
            return;
        }
        let own = self.clone();
        let started = std::thread::Builder::new()
            .name("delay-command".to_owned())
            .spawn(move || while own.next().is_some_and(&deal) {});
        if let Err(error) = started {
            log::error!("no thread for what another process asks: {error}");
            // For the next wish, and so for this one.
            self.0.lock().1 -= 1;
        }
    }

    /// Notes a wish; whether another thread is needed for it.
    fn add(&self, wish: Wish) -> bool {
        let (wishes, threads) = &mut *self.0.lock();
        let mut most = MOST;
        let same = wishes.iter_mut().find_map(|it| match it {
            Wish::Show(at) => Some(at),
            Wish::Command(_) => None,
        });
        match (wish, same) {
            (Wish::Show(later), Some(at)) => {
                // No thread has begun to answer, so one answer is for both. There is a thread for it,
                // unless that could not be started.
                *at = later;
                most = 1;
            }
            (wish, _) => wishes.push_back(wish),
        }
        let is_needed = *threads < most;
        *threads += usize::from(is_needed);
        is_needed
    }

    /// The next wish. Without one, the thread must end.
    fn next(&self) -> Option<Wish> {
        let (wishes, threads) = &mut *self.0.lock();
        let next = wishes.pop_front();
        *threads -= usize::from(next.is_none());
        next
    }
}

/// Calls what tells of the tasks of this process.
pub(crate) fn shown(show: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    call_with(show, [])?.extract()
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
