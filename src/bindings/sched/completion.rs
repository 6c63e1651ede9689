//! What follows the end of a task, in one order for every way to end:
//!
//! 1. drop the call, and give back the permit in the queue, if the task had not started;
//! 2. note the event, so that `stats()` counts a task before its result is visible;
//! 3. limits: the key, the rate, the unique key, the timers;
//! 4. waiters: threads in `result`;
//! 5. wakers: what awaits the future; before them, readers of its items;
//! 6. the registry, which keeps the last results;
//! 7. dependents: the tasks that follow it;
//! 8. the signal, and the done callbacks in order, once each, in an app context without a request.
//!
//! A thread that must not block (the event loop, the timer, a reader of results) leaves step 8 to a
//! worker: see [`finish_detached`].

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use flask_delay_engine::Hold;
use flask_delay_journal::{Cancelled, Found, Order, State};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::limits;
use super::queue;
use crate::bindings::core::async_check::refuse_result;
use crate::bindings::core::durable;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::executor::{Core, Job, Note, Queued};
use crate::bindings::core::id::Id;
use crate::bindings::core::interrupt;
use crate::bindings::core::leftovers;
use crate::bindings::core::link::{self, Link};
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::stream::Sleeper;
use crate::bindings::core::task::{Callbacks, Extra, Task, name_of};
use crate::bindings::core::transition::{self, Completed, End, Phase};
use crate::bindings::core::waiter::Waiter;
use crate::bindings::errors::{TaskExpired, closed, into_exception, or_unraisable};
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::context::{carry, within};
use crate::bindings::ffi::object::track;
use crate::bindings::host::app_context::AppContext;
use crate::bindings::host::logging;
use crate::bindings::host::signals;
use crate::bindings::wait::current;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The task's worker, in the task's context.
    Worker,
    /// The event loop, which must not block: the callbacks stay in the future.
    Loop,
    Elsewhere,
}

/// Ends the future from `Pending` or `Running`; wakes the waiters and runs the callbacks before it
/// returns.
///
/// # Errors
///
/// The phase of the future, if it was done.
pub(crate) fn finish<'py>(
    this: &Bound<'py, Task>,
    to: Phase,
    outcome: Bound<'py, PyAny>,
    place: Place,
) -> Result<(), Phase> {
    transition::finish(this, to, outcome).map(|completed| complete(completed, place))
}

/// Marks a task that ended by a cancellation as cancelled; `false` if it was done already.
pub(crate) fn abandon(this: &Bound<'_, Task>, place: Place) -> bool {
    complete_if(transition::abandon(this), place)
}

/// Cancels the future if its task has not started or runs as a coroutine; returns whether it is
/// cancelled.
pub(crate) fn cancel(this: &Bound<'_, Task>) -> bool {
    if durable::is_durable(this.get()) {
        return cancel_durable(this);
    }
    if complete_if(transition::cancel(this, Phase::Pending), Place::Elsewhere) {
        recall(this, this.get().told_to_stop());
        return true;
    }
    if let Some(canceller) = transition::canceller(this)
        && complete_if(transition::cancel(this, Phase::Running), Place::Elsewhere)
    {
        or_unraisable(call_with(&canceller, []).map(drop), this);
    }
    this.get().phase().is_cancelled()
}

/// Cancels a durable task. The journal decides whether it has started, in whichever process.
fn cancel_durable(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    if cell.phase().is_done() {
        return cell.phase().is_cancelled();
    }
    if durable::has_claim(cell) {
        return cancel_claimed(this);
    }
    let Some((link, _)) = durable::link_of(cell) else {
        return false;
    };
    let id = cell.quiet_id().to_string();
    match link.ask(this.py(), |journal| journal.cancel(&id)) {
        Ok(Cancelled::Yes) => {
            link.remove(&id);
            // The courier may be the first to end it.
            complete_if(transition::cancel(this, Phase::Pending), Place::Elsewhere)
                || cell.phase().is_cancelled()
        }
        Ok(Cancelled::Running) if cancel_plain(this, &link, &id) => {
            link.remove(&id);
            complete_if(transition::cancel(this, Phase::Pending), Place::Elsewhere)
                || cell.phase().is_cancelled()
        }
        // The end, if there is one, arrives from the journal.
        Ok(Cancelled::Running | Cancelled::Ended | Cancelled::Unknown) => {
            cell.phase().is_cancelled()
        }
        Err(error) => {
            error.write_unraisable(this.py(), Some(this.as_any()));
            false
        }
    }
}

/// How long another process may take to cancel a plain task of its own.
const PATIENCE: Duration = Duration::from_secs(1);

/// Has another process cancel a plain task that waits there, if it is one; whether it did.
fn cancel_plain(this: &Bound<'_, Task>, link: &Link, id: &str) -> bool {
    let order = Order {
        verb: "cancel".to_owned(),
        target: id.to_owned(),
        actor: None,
        is_task: true,
    };
    let cancelled = link.ask(this.py(), |journal| {
        let Found::Row(row) = journal.get(id)? else {
            return Ok(false);
        };
        if !row.plain || row.began.is_some() {
            return Ok(false);
        }
        journal.command(order, PATIENCE)?;
        // That process has written the end before its answer.
        Ok(matches!(journal.get(id)?, Found::Row(row) if row.state == State::Cancelled))
    });
    cancelled.unwrap_or_else(|error| {
        error.write_unraisable(this.py(), Some(this.as_any()));
        false
    })
}

/// Cancels a durable task that waits for its worker here, or runs as a coroutine.
fn cancel_claimed(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    if take_over(this) {
        store_end(this, &End::Cancelled);
        return finish_detached(this, End::Cancelled, None);
    }
    let Some(canceller) = transition::canceller(this) else {
        return cell.phase().is_cancelled();
    };
    // At the end of the process, the coroutine goes on in the next one.
    let is_over = cell.core().is_some_and(|core| core.is_given_up());
    if !is_over {
        store_end(this, &End::Cancelled);
        complete_if(transition::cancel(this, Phase::Running), Place::Elsewhere);
    }
    or_unraisable(call_with(&canceller, []).map(drop), this);
    cell.phase().is_cancelled()
}

/// The executor of a future notices its cancellation.
pub(crate) fn notice(this: &Bound<'_, Task>) {
    complete_if(transition::notice(this), Place::Elsewhere);
}

fn complete_if(completed: Option<Completed<'_, '_>>, place: Place) -> bool {
    completed
        .map(|completed| complete(completed, place))
        .is_some()
}

fn complete(completed: Completed<'_, '_>, place: Place) {
    let Completed {
        future: this,
        was_pending,
        watched,
    } = completed;
    let cell = this.get();
    if was_pending {
        // The task will not run: drop the call and the app context now.
        let scope = cell.take_own_scope();
        leftovers::let_go_of_call(cell.take_call(this));
        leftovers::let_go(scope.map(|scope| scope.into_bound(this.py())));
        cell.give_place();
        if let Some(core) = cell.core() {
            core.ended_in_queue(cell);
        }
    }
    track(this);
    let kind = Kind::of(cell.phase()).filter(|_| !cell.ended_elsewhere());
    if let Some(kind) = kind {
        // Before waiters in `result` and callbacks see the end.
        events::happened(this, kind);
    }
    if cell.is_ruled() {
        durable::publish_end(this);
        limits::ended(this);
    }
    if watched || cell.has_lone_callback() || signals::wanted(this, kind) {
        tell_all(this, place);
    }
}

/// Wakes the waiters and runs the callbacks.
fn tell_all(this: &Bound<'_, Task>, place: Place) {
    let py = this.py();
    let cell = this.get();
    let Some(extra) = cell.known_extra() else {
        // The usual case: one callback and no waiters.
        if place != Place::Loop {
            let callback = cell.callback.take(py).map(Bound::unbind);
            run(this, signalled_end(this), callback.as_slice(), place);
        }
        return;
    };
    let (callbacks, others) = {
        let mut extra = extra.lock();
        let callbacks = match place {
            Place::Loop => Callbacks::new(),
            Place::Worker | Place::Elsewhere => cell.take_callbacks(py, Some(&mut extra)),
        };
        (callbacks, Others::take(&mut extra))
    };
    let event = match place {
        Place::Loop => None,
        Place::Worker | Place::Elsewhere => signalled_end(this),
    };
    let alone = callbacks.is_empty() && event.is_none();
    others.tell(this, place == Place::Worker && alone);
    run(this, event, &callbacks, place);
}

/// The kind of the task's end, if its signal has receivers.
fn signalled_end(this: &Bound<'_, Task>) -> Option<Kind> {
    let event = Kind::of(this.get().phase()).filter(|_| !this.get().ended_elsewhere());
    event.filter(|_| signals::wanted(this, event))
}

/// Runs the callbacks that [`Place::Loop`] left in the future.
fn run_callbacks(this: &Bound<'_, Task>, place: Place) {
    // No callback is added to a future that is done.
    let cell = this.get();
    let callbacks = match cell.known_extra() {
        Some(extra) => cell.take_callbacks(this.py(), Some(&mut extra.lock())),
        None => cell.take_callbacks(this.py(), None),
    };
    run(this, signalled_end(this), &callbacks, place);
}

/// Keeps `callback` for the end of the task, or runs it now if the task is done.
pub(crate) fn add(this: &Bound<'_, Task>, callback: Bound<'_, PyAny>) {
    if let Some(callback) = this.get().keep(callback) {
        run(this, None, &[callback.unbind()], Place::Elsewhere);
    }
}

/// Sends the signal of `event` and runs `callbacks`; logs what they raise.
pub(crate) fn run(
    this: &Bound<'_, Task>,
    event: Option<Kind>,
    callbacks: &[Py<PyAny>],
    place: Place,
) {
    if event.is_none() && callbacks.is_empty() {
        return;
    }
    let cell = this.get();
    if !cell.has_scope() {
        if place == Place::Elsewhere {
            // These callbacks belong to another task than the call in which they run.
            let _covered = interrupt::cover(this.py());
            call_all(this, callbacks);
        } else {
            call_all(this, callbacks);
        }
        return;
    }
    run_in_scope(this, event, callbacks, place);
}

/// As [`run`], with the app context of a task that has one.
fn run_in_scope(
    this: &Bound<'_, Task>,
    event: Option<Kind>,
    callbacks: &[Py<PyAny>],
    place: Place,
) {
    let py = this.py();
    let cell = this.get();
    let _covered = (place == Place::Elsewhere).then(|| interrupt::cover(py));
    let inside = || {
        let Some(scope) = cell.scope(py)? else {
            return Ok(());
        };
        let surroundings = AppContext::enter(&scope)?;
        if let Some(event) = event {
            signals::emit(this, event);
        }
        call_all(this, callbacks);
        surroundings.leave(this, None)
    };
    let ran = match (place, cell.core()) {
        // A worker is in the task's own context, which has no request.
        (Place::Elsewhere, Some(core)) => carry(py, &core.hidden)
            .and_then(|context| within(py, context, inside))
            .flatten(),
        _ => inside(),
    };
    if let Err(error) = ran {
        logging::failure(py, "callbacks of task %s (%s): no app context", this, error);
    }
}

fn call_all(this: &Bound<'_, Task>, callbacks: &[Py<PyAny>]) {
    let py = this.py();
    for callback in callbacks {
        let callback = callback.bind(py);
        if let Err(error) = call_with(callback, [this.as_any()])
            .and_then(|result| refuse_result(callback, result, "a done callback"))
        {
            // The wording of concurrent.futures, for which users search their logs.
            let template = format!(
                "exception calling callback for task %s (%s): {}",
                callback
                    .repr()
                    .map_or_else(|_| "?".to_owned(), |text| text.to_string())
                    .replace('%', "%%")
            );
            logging::failure(py, &template, this, error);
        }
    }
}

/// Adds the executor's default callbacks to a future that is not queued yet.
pub(crate) fn add_defaults(this: &Bound<'_, Task>, callbacks: Vec<Py<PyAny>>) {
    for callback in callbacks {
        let kept = this.get().keep(callback.into_bound(this.py()));
        debug_assert!(kept.is_none(), "it has not ended");
    }
}

/// Ends a task that cannot be run.
pub(crate) fn fail(this: &Bound<'_, Task>, error: PyErr) {
    let exception = into_exception(this.py(), error);
    logging::exception_of("task %s (%s) could not be run", this, &exception);
    store_end(this, &End::Raised(exception.clone()));
    let _ = finish(this, Phase::Failed, exception, Place::Worker);
}

/// Ends an accepted task that no worker would run.
pub(crate) fn give_up(this: &Bound<'_, Task>, error: PyErr) {
    if !take_over(this) {
        return;
    }
    let exception = into_exception(this.py(), error);
    logging::exception_of("task %s (%s) could not be run", this, &exception);
    finish_detached(this, End::Raised(exception), None);
}

/// Ends a task that has not started in time.
pub(crate) fn expire(this: &Bound<'_, Task>) {
    let py = this.py();
    if !take_over(this) {
        return;
    }
    let limit = policy::policy(this).and_then(|policy| policy.get().expires);
    let error = TaskExpired::new_err(format!(
        "task {:?} was not started within {} s",
        name_of(this),
        limit.unwrap_or_default().as_secs_f64()
    ));
    finish_detached(
        this,
        End::Raised(into_exception(py, error)),
        Some(Note::Expired),
    );
}

/// Drops the functions that recall the task and report about it.
pub(crate) fn forget(task: &Bound<'_, Task>) {
    if let Some(extra) = task.get().known_extra() {
        let taken = {
            let mut extra = extra.lock();
            (extra.recall.take(), extra.report.take())
        };
        drop(taken);
    }
}

/// Recalls a cancelled task that runs elsewhere, so that it does not start there, or is terminated.
pub(crate) fn recall(task: &Bound<'_, Task>, terminate: bool) {
    let py = task.py();
    let recall = task
        .get()
        .known_extra()
        .and_then(|extra| extra.lock().recall.take());
    let Some(recall) = recall else {
        return;
    };
    let terminate = PyBool::new(py, terminate);
    if let Err(error) = call_with(recall.bind(py), [terminate.as_any()]) {
        error.write_unraisable(py, Some(task.as_any()));
    }
    forget(task);
}

/// The waiters of steps 4 to 7. Taken out of the future, so that each is notified once.
pub(crate) struct Others {
    waiters: Vec<Arc<Waiter>>,
    readers: Vec<Sleeper>,
    wakers: Vec<Py<PyAny>>,
    followed: Vec<Py<Task>>,
    known: Option<Id>,
}

impl Others {
    pub(crate) fn take(extra: &mut Extra) -> Self {
        Self {
            waiters: take(&mut extra.waiters),
            readers: extra
                .stream
                .as_mut()
                .map_or_else(Vec::new, |it| it.take_sleepers()),
            wakers: take(&mut extra.wakers),
            followed: take(&mut extra.dependents),
            known: extra.id.clone().filter(|_| extra.known),
        }
    }

    /// Notifies all of them. With `may_defer`, nothing else follows the task's end.
    pub(crate) fn tell(self, this: &Bound<'_, Task>, may_defer: bool) {
        let py = this.py();
        // Defer only if no user code runs before the worker wakes the waiters.
        let may_defer = may_defer
            && self.readers.is_empty()
            && self.wakers.is_empty()
            && self.followed.is_empty()
            && self.known.is_none();
        for waiter in current::defer(self.waiters, may_defer) {
            waiter.ring();
        }
        for reader in self.readers {
            reader.wake(this);
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
            let told = this
                .get()
                .core()
                .map(|core| (core.runner.follow)(this, self.followed));
            or_unraisable(told.unwrap_or(Ok(())), this);
        }
    }
}

/// Takes a task that has not started away from its worker, to end it here; `false` if it was
/// started or cancelled already. Keeps its context for the callbacks.
pub(crate) fn take_over(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    // From here on, no other thread starts or cancels it.
    if !cell.claim_start() {
        return false;
    }
    cell.give_place();
    if let Some(core) = cell.core() {
        core.ended_in_queue(cell);
    }
    discard_call(this);
    true
}

/// Drops the call, but keeps the context for the callbacks.
pub(crate) fn discard_call(this: &Bound<'_, Task>) {
    let cell = this.get();
    let mut taken = cell.take_call(this);
    if let Some(context) = taken.context.take() {
        cell.put_context(context);
    }
    let scope = cell.take_own_scope();
    leftovers::let_go(scope.map(|scope| scope.into_bound(this.py())));
    leftovers::let_go_of_call(taken);
}

/// A task that ended on a thread that must not block. Its signal and its callbacks are left to do.
#[must_use = "its callbacks have not run"]
pub(crate) struct Detached<'py> {
    task: Bound<'py, Task>,
    /// Keeps the pool from ending before a worker has the callbacks.
    hold: Option<Hold<Queued>>,
}

/// Ends a task without its worker; `None` if it was done.
pub(crate) fn detach<'py>(this: &Bound<'py, Task>, end: End<'py>) -> Option<Detached<'py>> {
    let core = this.get().core()?;
    let hold = (core.mode == Mode::Threads).then(|| core.pool().hold());
    complete(transition::end(this, end)?, Place::Loop);
    Some(Detached {
        task: this.clone(),
        hold,
    })
}

/// As [`detach`], and gives the rest to a worker; `false` if the task was done. The journal hears
/// of the end of a durable task first.
pub(crate) fn finish_detached<'py>(
    this: &Bound<'py, Task>,
    end: End<'py>,
    note: Option<Note>,
) -> bool {
    let Some(end) = store_end_later(this, end, note) else {
        return true;
    };
    detach(this, end)
        .map(|detached| detached.send(note))
        .is_some()
}

/// Stores the end of a durable task that runs here, and waits for that: an outcome that anybody has
/// seen is in the journal.
pub(crate) fn store_end(this: &Bound<'_, Task>, end: &End<'_>) {
    if let Some(taken) = durable::take_claim(this.get()) {
        add_defaults_first(this);
        taken.end(this, end);
    }
}

/// As [`store_end`], without waiting: the end follows when the journal has it. Returns the end of a
/// task that has no row here.
pub(crate) fn store_end_later<'py>(
    this: &Bound<'py, Task>,
    end: End<'py>,
    note: Option<Note>,
) -> Option<End<'py>> {
    match durable::take_claim(this.get()) {
        Some(taken) => {
            add_defaults_first(this);
            taken.end_later(this, end, note);
            None
        }
        None => Some(end),
    }
}

/// Adds the executor's default callbacks before those of a durable task: they run once, in the
/// process where the task ended.
fn add_defaults_first(this: &Bound<'_, Task>) {
    let py = this.py();
    let Some(inner) = this.get().core().and_then(|core| core.executor()) else {
        return;
    };
    let defaults: Callbacks = {
        let defaults = inner.defaults.lock();
        defaults.iter().map(|it| it.clone_ref(py)).collect()
    };
    if !defaults.is_empty() {
        this.get().keep_first(defaults);
    }
}

/// Whether the end of a task has callbacks or receivers of its signal.
pub(crate) fn is_heard(this: &Bound<'_, Task>) -> bool {
    this.get().has_callbacks() || signalled_end(this).is_some()
}

impl Detached<'_> {
    /// Gives a worker the callbacks and the note to log. Without workers, does both now, unless
    /// this is the timer's thread.
    pub(crate) fn send(self, note: Option<Note>) {
        let Self { task, hold } = self;
        let py = task.py();
        let Some(core) = task.get().core() else {
            return;
        };
        if note.is_none() && !is_heard(&task) {
            leftovers::let_go(task.get().take_context(py));
            leave(&task);
            return;
        }
        let job = Job::Callbacks(task.clone().unbind(), note);
        if core.mode == Mode::Threads {
            give_worker(py, core, job);
        } else {
            leftovers::work(py, move |py| do_job(py, job, Place::Worker));
        }
        drop(hold);
    }
}

/// Gives a worker a job that follows from an accepted one. If the pool has ended, does one such job
/// here.
pub(crate) fn give_worker(py: Python<'_>, core: &Arc<Core>, job: Job) {
    if let Some(job) = queue::resubmit(py, core, job) {
        leftovers::work(py, move |py| do_job(py, job, Place::Elsewhere));
    }
}

/// Does a job that does not run a task; fails a task that no worker would run.
pub(crate) fn do_job(py: Python<'_>, job: Job, place: Place) {
    match job {
        Job::Callbacks(task, note) => run_detached(task.bind(py), note, place),
        Job::Tick(function) => {
            if let Err(error) = call_with(function.bind(py), []) {
                error.write_unraisable(py, Some(function.bind(py)));
            }
        }
        Job::Task(task) => give_up(task.bind(py), closed()),
        job @ Job::Claimed(_) => link::put_job_back(job),
    }
}

/// Runs the callbacks of a task that ended without its worker, in the context kept for them.
fn run_detached(task: &Bound<'_, Task>, note: Option<Note>, place: Place) {
    let py = task.py();
    if let Some(note) = note {
        logging::warning_of(note.template(), task);
    }
    let context = task.get().take_context(py);
    if let Err(error) = within(py, context, || run_callbacks(task, place)) {
        logging::failure(py, "callbacks of task %s (%s): no context", task, error);
    }
    leave(task);
}

/// The task has ended: its executor no longer waits for it.
pub(crate) fn leave(task: &Bound<'_, Task>) {
    let_go_of_coroutine(task);
    if let Some(core) = task.get().core() {
        core.on_loop().remove(task);
    }
}

pub(crate) fn let_go_of_coroutine(task: &Bound<'_, Task>) {
    let extra = task.get().known_extra();
    // The canceller refers to the coroutine, and so to its context.
    let canceller = extra.and_then(|extra| extra.lock().canceller.take());
    drop(canceller);
}
