//! `countdown=` and `eta=`: a task that is not to start before its time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pyo3::prelude::*;

use super::dispatch;
use super::timer;
use crate::bindings::core::executor::Core;
use crate::bindings::core::policy::{self, Start};
use crate::bindings::core::task::FutureCell;
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::closed;

/// A set clock is noticed after so long.
pub(crate) const GLANCE: Duration = Duration::from_mins(1);

/// When to look at a task that is not to start yet; None if it may.
fn next_look(this: &FutureCell) -> Option<Instant> {
    if let Some(from) = policy::with(this, |rules| rules.from).flatten() {
        return Some(from).filter(|from| *from > Instant::now());
    }
    let Some(Start::At(time)) = policy::with(this, |rules| rules.start).flatten() else {
        return None;
    };
    let left = time.duration_since(SystemTime::now()).ok()?;
    (!left.is_zero()).then(|| Instant::now() + left.min(GLANCE))
}

/// Whether a task that is held cannot start before `deadline`, because of its own time or
/// that of its next attempt.
pub(crate) fn starts_after(this: &FutureCell, deadline: Instant) -> bool {
    let times = policy::with(this, |rules| {
        let again = rules.alarm.filter(|_| rules.attempts > 0);
        (rules.from, rules.start, again)
    });
    let Some((from, start, again)) = times else {
        return false;
    };
    if let Some(again) = again {
        return again.at() > deadline;
    }
    if let Some(from) = from {
        return from > deadline;
    }
    let Some(Start::At(time)) = start else {
        return false;
    };
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now()
        .checked_add(left)
        .is_none_or(|at| at > deadline)
}

/// Keeps a task that has just been submitted until its time; `false` if it may start.
pub(crate) fn hold(this: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<bool> {
    let Some(at) = next_look(this.get()) else {
        return Ok(false);
    };
    core.held().add(this, core.pool().hold());
    // Not before: whoever closes the pool, and cancels what is held, must find it there.
    if core.pool().is_closed() {
        core.held().remove(this);
        return Err(closed());
    }
    set(this, at).inspect_err(|_| core.held().remove(this))?;
    Ok(true)
}

fn set(this: &Bound<'_, FutureCell>, at: Instant) -> PyResult<()> {
    let cell = this.get();
    let alarm = timer::set(at, this, ring)?;
    policy::with(cell, |rules| rules.begin = Some(alarm));
    if cell.phase().is_done() {
        // By somebody who has not seen the alarm.
        timer::unset(this.py(), alarm);
    }
    Ok(())
}

/// It may be time.
pub(crate) fn ring(this: &Bound<'_, FutureCell>) {
    if this.get().phase() != Phase::Pending {
        return;
    }
    let Some(at) = next_look(this.get()) else {
        return dispatch::again(this);
    };
    if let Err(error) = set(this, at) {
        dispatch::give_up(this, error);
    }
}
