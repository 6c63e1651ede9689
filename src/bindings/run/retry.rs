//! `retry=` and `current_task.retry`: whether a failed task runs again, and when.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::bindings::core::call::TakenCall;
use crate::bindings::core::durable;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::executor::Core;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::core::timeline;
use crate::bindings::core::traces;
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::{CancelledError, TaskRetry, into_exception};
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::context::copy_current;
use crate::bindings::host::logging;
use crate::bindings::sched::completion;
use crate::bindings::sched::dispatch;
use crate::bindings::sched::limits;
use crate::bindings::sched::timer;

/// What follows a failed attempt.
pub(crate) enum Verdict<'py> {
    /// The task fails with this exception.
    Fail(Bound<'py, PyAny>),
    /// The task runs again after this time; with the exception of the attempt, if there is one.
    Again(Duration, Option<Bound<'py, PyAny>>),
}

/// What follows an attempt of `this` that raised `exception`.
pub(crate) fn judge<'py>(this: &Bound<'py, Task>, exception: Bound<'py, PyAny>) -> Verdict<'py> {
    let asked = exception.is_instance_of::<TaskRetry>();
    let over = || this.get().core().is_some_and(|core| core.is_cancelling());
    if !asked && !this.get().is_ruled() {
        return Verdict::Fail(exception);
    }
    if policy::is_elsewhere(this.get()) {
        return Verdict::Fail(exception);
    }
    let ends = this.get().told_to_stop() || over();
    if ends && !asked {
        return Verdict::Fail(exception);
    }
    let judged = if asked {
        judge_request(this, &exception)
    } else {
        judge_failure(this, &exception)
    };
    if ends && !matches!(judged, Ok(Verdict::Fail(_))) {
        // The retry is cancelled.
        this.get().tell_to_stop();
        let error = CancelledError::new_err("the task was told to stop");
        return Verdict::Fail(into_exception(this.py(), error));
    }
    judged.unwrap_or_else(|error| {
        // The error of the user's policy must not hide the task's own.
        logging::failure(
            this.py(),
            "the retry policy of task %s (%s) raised",
            this,
            error,
        );
        Verdict::Fail(exception)
    })
}

fn retry_of<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, PyAny>> {
    let policy = policy::policy(this)?;
    policy.get().retry(this.py())
}

fn judge_failure<'py>(
    this: &Bound<'py, Task>,
    exception: &Bound<'py, PyAny>,
) -> PyResult<Verdict<'py>> {
    let after: Option<f64> = match retry_of(this) {
        Some(retry) => {
            let attempts = policy::attempts(this.get()).unwrap_or(1);
            retry
                .call_method1("_after", (exception, attempts))?
                .extract()?
        }
        None => None,
    };
    if let Some(after) = after {
        return Ok(Verdict::Again(duration(after), Some(exception.clone())));
    }
    link(this, exception)?;
    Ok(Verdict::Fail(exception.clone()))
}

/// The task's own code asks for another attempt.
fn judge_request<'py>(
    this: &Bound<'py, Task>,
    request: &Bound<'py, PyAny>,
) -> PyResult<Verdict<'py>> {
    let py = this.py();
    // The exception that was being handled.
    let cause = request.getattr("__context__")?;
    let cause = (!cause.is_none()).then_some(cause);
    let after: Option<f64> = request.getattr("args")?.get_item(0)?.extract()?;
    // Without a policy, this is the first attempt.
    let attempts = policy::with_new(this.get(), |rules| {
        rules.attempts = rules.attempts.max(1);
        rules.attempts
    });
    let Some(retry) = retry_of(this) else {
        return Ok(Verdict::Again(duration(after.unwrap_or(0.0)), cause));
    };
    let times: Option<u64> = retry.getattr("times")?.extract()?;
    if let Some(times) = times
        && u64::from(attempts) > times
    {
        let exception = cause.unwrap_or_else(|| {
            let error = PyRuntimeError::new_err(format!(
                "task {:?} asked to run again, but its {times} retries are used up",
                name_of(this)
            ));
            into_exception(py, error)
        });
        link(this, &exception)?;
        return Ok(Verdict::Fail(exception));
    }
    let after = match after {
        Some(after) => after,
        None => retry.call_method1("_delay", (attempts,))?.extract()?,
    };
    Ok(Verdict::Again(duration(after), cause))
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Keeps the exceptions of the last attempts, without the contents of their frames: there may be
/// thousands of attempts.
fn keep(this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let (seen, oldest) = policy::with_new(this.get(), |rules| {
        let previous = &mut rules.previous;
        let seen = previous.iter().position(|it| it.is(exception));
        let seen = seen.map(|place| previous.remove(place));
        let oldest = (previous.len() >= KEPT).then(|| previous.remove(0));
        previous.push(exception.clone().unbind());
        (seen, oldest)
    });
    drop(oldest);
    if seen.is_some() {
        // One object for all attempts: each raise would add to its traceback.
        exception.setattr("__traceback__", this.py().None())?;
    }
    traces::let_go_of_frames(exception)
}

/// How many exceptions of earlier attempts are kept.
const KEPT: usize = 5;

/// Appends the exceptions of earlier attempts to the context chain of `exception`.
fn link(this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let previous = policy::with(this.get(), |rules| std::mem::take(&mut rules.previous));
    for previous in previous.into_iter().flatten().rev() {
        join(exception, previous.into_bound(this.py()))?;
    }
    Ok(())
}

fn join<'py>(exception: &Bound<'py, PyAny>, previous: Bound<'py, PyAny>) -> PyResult<()> {
    let py = exception.py();
    let chain = chain(exception)?;
    let met = |it: &Bound<'_, PyAny>| chain.iter().any(|known| known.is(it));
    if met(&previous) {
        return Ok(());
    }
    // The same object may be raised twice. It keeps the later place, so that the chain has no
    // circle.
    let before = self::chain(&previous)?;
    if let Some([last, _]) = before.windows(2).find(|pair| met(&pair[1])) {
        last.setattr("__context__", py.None())?;
    }
    match chain.last() {
        Some(last) => last.setattr("__context__", previous),
        None => Ok(()),
    }
}

/// An exception and the chain of its contexts.
fn chain<'py>(exception: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mut chain = vec![exception.clone()];
    let mut last = exception.clone();
    while chain.len() < LONGEST {
        last = last.getattr("__context__")?;
        if last.is_none() {
            break;
        }
        chain.push(last.clone());
    }
    Ok(chain)
}

/// Longer chains are followed only this far.
const LONGEST: usize = 1_000;

/// The class of an exception and, in further lines, its message, cut.
fn why(exception: &Bound<'_, PyAny>) -> String {
    let kind = exception.get_type().fully_qualified_name();
    let kind = kind.map_or_else(|_| "?".to_owned(), |name| name.to_string());
    // It may raise: then there is no message.
    let message = exception.str();
    let message = message.map_or_else(|_| String::new(), |it| it.to_string_lossy().into_owned());
    format!(
        "{kind}\n{}",
        message.chars().take(MESSAGE).collect::<String>()
    )
}

/// Characters of a message.
const MESSAGE: usize = 300;

/// Schedules another attempt, with the same context and call. An end of the task that comes first
/// prevails.
pub(crate) fn again<'py>(
    this: &Bound<'py, Task>,
    core: &Arc<Core>,
    taken: Option<TakenCall<'py>>,
    after: Duration,
    exception: Option<Bound<'py, PyAny>>,
) {
    if let Err(error) = try_again(this, core, taken, after, exception) {
        completion::fail(this, error);
    }
}

fn try_again<'py>(
    this: &Bound<'py, Task>,
    core: &Arc<Core>,
    taken: Option<TakenCall<'py>>,
    after: Duration,
    exception: Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let cell = this.get();
    if core.log_failures {
        logging::runs_again(this, after, exception.as_ref());
    }
    if !cell.has_context() {
        // The task had no policy when it began, so a clean context was not kept.
        cell.put_context(copy_current(this.py())?);
    }
    if let Some(taken) = taken {
        cell.put_call(this, taken);
    }
    let why = timeline::is_shown(cell)
        .then(|| exception.as_ref().map(why))
        .flatten();
    if let Some(exception) = exception
        && let Err(error) = keep(this, &exception)
    {
        error.write_unraisable(this.py(), Some(this));
    }
    let attempts = policy::with_new(cell, |rules| {
        rules.first_start.get_or_insert_with(|| cell.last_start());
        rules.attempts
    });
    let is_durable = durable::has_claim(cell);
    if core.mode == Mode::Threads && !is_durable {
        core.held().add(this, core.pool().hold());
    }
    // While it is held, it does not count as queued.
    cell.leave_queue();
    if !cell.run_again() {
        // No thread takes the call any more.
        drop(cell.take_call(this));
        core.held().remove(this);
        return Ok(());
    }
    events::happened(this, Kind::Retrying);
    timeline::note(this, cell.last_start(), timeline::STARTED, || {
        format!("attempt {attempts}")
    });
    timeline::note(this, now(), timeline::RETRYING, || {
        let why = why
            .as_ref()
            .map_or_else(String::new, |why| format!("\n{why}"));
        format!("attempt {attempts}{why}")
    });
    // After `run_again`: a task of the same key that starts now and waits for this one must find it
    // pending.
    limits::leave_lane(this);
    if is_durable {
        super::durable::again(this, after, why);
        return Ok(());
    }
    match core.mode {
        Mode::Threads => {}
        // The running thread goes on with the next attempt.
        Mode::Immediate => return Ok(()),
        Mode::Manual => {
            dispatch::shelve(this, core);
            return Ok(());
        }
    }
    let alarm = timer::set_in(after, this, wake)?;
    policy::with(cell, |rules| {
        // The timer may have fired already, and the next attempt may have its own.
        if rules.attempts == attempts {
            rules.alarm = alarm;
        }
    });
    if let Some(alarm) = alarm
        && cell.phase().is_done()
    {
        timer::unset(this.py(), alarm);
    }
    Ok(())
}

/// Starts the task's next attempt.
pub(crate) fn wake(this: &Bound<'_, Task>) {
    if this.get().phase() == Phase::Pending {
        dispatch::again(this);
    }
}
