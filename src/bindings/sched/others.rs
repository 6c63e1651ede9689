//! Who is told of the end of a task before its callbacks run: those who wait for it or await
//! it, the tasks that follow it, and the registry.

use std::mem::take;
use std::sync::Arc;

use pyo3::prelude::*;

use super::dependents;
use crate::bindings::core::id::Id;
use crate::bindings::core::leftovers;
use crate::bindings::core::task::{Extra, FutureCell};
use crate::bindings::core::waiter::Bell;
use crate::bindings::ffi::call::call_with;
use crate::bindings::wait::current;

/// See the module. Taken out of the future, so that each is told once.
pub(crate) struct Others {
    waiters: Vec<Arc<Bell>>,
    wakers: Vec<Py<PyAny>>,
    followed: Vec<Py<FutureCell>>,
    known: Option<Id>,
}

impl Others {
    pub(crate) fn take(extra: &mut Extra) -> Self {
        Self {
            waiters: take(&mut extra.waiters),
            wakers: take(&mut extra.wakers),
            followed: take(&mut extra.sequels),
            known: extra.id.clone().filter(|_| extra.known),
        }
    }

    /// Tells all of them. `may_defer`: nothing else is to be done at the task's end.
    pub(crate) fn tell(self, this: &Bound<'_, FutureCell>, may_defer: bool) {
        let py = this.py();
        // Nothing of the user's runs before the worker comes to ring them.
        let may_defer =
            may_defer && self.wakers.is_empty() && self.followed.is_empty() && self.known.is_none();
        for bell in current::defer(self.waiters, may_defer) {
            bell.ring();
        }
        for waker in self.wakers {
            or_unraisable(call_with(waker.bind(py), [this.as_any()]).map(drop), this);
        }
        if let (Some(id), Some(core)) = (&self.known, this.get().core()) {
            core.registry.finished(py, id);
            let (core, id) = (Arc::clone(core), id.clone());
            leftovers::work(py, move |py| core.registry.let_go_of_frames(py, &id));
        }
        if !self.followed.is_empty() {
            or_unraisable(dependents::go_on(this, self.followed), this);
        }
    }
}

fn or_unraisable(result: PyResult<()>, this: &Bound<'_, FutureCell>) {
    if let Err(error) = result {
        error.write_unraisable(this.py(), Some(this.as_any()));
    }
}
