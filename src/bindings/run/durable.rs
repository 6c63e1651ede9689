//! Durable tasks: from a submit to a row of the journal, and from a claimed row to an attempt.
//!
//! The data are in `core::durable`; the ends of attempts go through `sched::completion`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flask_delay_engine::Mutex;
use flask_delay_journal::{
    Accepted, Before, Change, Claim, Claimed, DeadLetter, Error, Follows, Found, Held, How,
    Journal, Kept, Key, Limits, NewTask, Pool, RESULT, Row, State,
};
use pyo3::exceptions::{PyLookupError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyCFunction, PyDict, PyFunction, PyString, PyTuple};

use super::kept;
use super::timeout;
use crate::bindings::codec::json;
use crate::bindings::convert::{to_micros, to_nanos};
use crate::bindings::core::async_check::check_function;
use crate::bindings::core::call::{Call, TakenCall};
use crate::bindings::core::durable;
use crate::bindings::core::events::{self, Kind, Subscriber};
use crate::bindings::core::executor::{Core, ExecutorCell, Job};
use crate::bindings::core::id::Id;
use crate::bindings::core::link::{self, Link, Message, Stored};
use crate::bindings::core::machine::{self, Given, KEY};
use crate::bindings::core::options::{Policy, Start, Twin};
use crate::bindings::core::policy::{self, Durable};
use crate::bindings::core::progress::Progress;
use crate::bindings::core::signature;
use crate::bindings::core::task::{Task, name_of, new_future};
use crate::bindings::core::transition::{End, Phase};
use crate::bindings::errors::{
    DuplicateTask, QueueFull, ResultNotKept, broken, closed, forked, id_is_taken, into_exception,
};
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::call::Shape;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::slot::Slot;
use crate::bindings::host::app_context::may_submit;
use crate::bindings::host::logging;
use crate::bindings::names;
use crate::bindings::sched::completion;
use crate::bindings::sched::dispatch::{self, announce};
use crate::bindings::sched::permits;
use crate::bindings::sched::timer;

/// A submit of a durable task, but for its function and its arguments.
pub(crate) struct Order<'py> {
    /// The registered name of the function.
    pub(crate) name: String,
    pub(crate) pool: Pool,
    pub(crate) policy: Option<Bound<'py, Policy>>,
    /// The options that another process needs, as text.
    pub(crate) options: Option<String>,
    pub(crate) once: Option<String>,
    /// On the disk before the submit returns, whatever the journal's level.
    pub(crate) disk: bool,
    /// Where it runs, if that is not the link's own executor.
    pub(crate) executor: Option<Arc<Core>>,
    /// What it waits for.
    pub(crate) follows: Option<(Vec<Before>, How)>,
}

/// A task that the journal does not have yet.
pub(crate) struct Offer<'py> {
    pub(crate) this: Bound<'py, Task>,
    core: Arc<Core>,
    pub(crate) id: String,
    name: String,
    call: String,
    once: Option<String>,
    is_strict: bool,
}

const FULL: &str = "the journal has as many waiting tasks as the setting JOURNAL_WAITING allows: submit again \
                    later, or set it higher";

/// Accepts a task: when this returns, the journal has it.
///
/// # Errors
///
/// What the codec refuses, `DuplicateTask`, `QueueFull`, `JournalUnavailable`.
pub(crate) fn submit<'py>(
    link: &Arc<Link>,
    order: Order<'py>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, Task>> {
    let ask = |journal: &Journal, row| Ok(Ok((journal.submit(row)?, None)));
    let Ok(this) = submit_by::<Infallible>(link, order, arguments, ask)?;
    Ok(this)
}

/// As [`submit`], for a task that `ask` gives to the journal, with the tick that it is for; or
/// that it does not, and says why.
///
/// # Errors
///
/// As for [`submit`].
pub(crate) fn submit_by<'py, T: Send>(
    link: &Arc<Link>,
    order: Order<'py>,
    arguments: &Arguments<'_, 'py>,
    ask: impl FnOnce(&Journal, NewTask) -> Result<Result<(Accepted, Option<i64>), T>, Error> + Send,
) -> PyResult<Result<Bound<'py, Task>, T>> {
    let (offer, row) = offer_call(link, order, arguments)?;
    let asked_for = link
        .ask(offer.this.py(), |journal| ask(journal, row))
        .inspect_err(|_| link.remove(&offer.id))?;
    match asked_for {
        Ok((accepted, tick)) => {
            if let Accepted::Mine(_) = &accepted {
                durable::set_tick(offer.this.get(), tick);
            }
            settle(link, offer, accepted).map(Ok)
        }
        Err(why) => {
            link.remove(&offer.id);
            Ok(Err(why))
        }
    }
}

/// Why a generator function is no durable task.
pub(super) const NO_ITEMS: &str = "a durable task has a result and no items, which only this \
    process would have; give durable tasks a function that iterates, or leave durable out";

/// As [`offer`], for a call with the arguments that this one has.
fn offer_call<'py>(
    link: &Arc<Link>,
    order: Order<'py>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<(Offer<'py>, NewTask)> {
    let function = &arguments.function;
    let is_coroutine = check_function(function, "task")?.without_items(function, NO_ITEMS)?;
    signature::check(arguments)?;
    let given = arguments.to_python()?;
    offer(link, order, Bound::clone(function), is_coroutine, &given)
}

/// Makes a task and its row; the journal has neither yet. The task is noted in the link.
///
/// # Errors
///
/// What the codec refuses, `DuplicateTask`.
pub(crate) fn offer<'py>(
    link: &Arc<Link>,
    order: Order<'py>,
    function: Bound<'py, PyAny>,
    is_coroutine: bool,
    given: &Given<'py>,
) -> PyResult<(Offer<'py>, NewTask)> {
    let py = function.py();
    let core = match order.executor {
        Some(core) => core,
        None => link.core().ok_or_else(closed)?,
    };
    if core.pool().is_closed() {
        return Err(closed());
    }
    let (positional, named) = given;
    let how = order.follows.as_ref().map(|(_, how)| *how);
    let result = (how == Some(How::Success)).then_some(RESULT);
    let call = json::encode_call(&order.name, positional, named.as_ref(), result, link.most)?;
    let asked = order.policy.as_ref().map(Bound::get);
    let unique = match asked.filter(|asked| asked.unique.is_some()) {
        Some(asked) => Some(unique_key(py, asked, &order.name, given, link.most)?),
        None => None,
    };
    let name = || Ok(order.name.clone());
    let limits = match asked {
        Some(asked) => machine::limits(py, asked, link.most, name, || Ok(given.clone()))?,
        None => None,
    };
    if asked.is_some_and(Policy::needs_timer) {
        // While an error can still tell the caller that the timer does not start.
        timer::ready()?;
    }
    let id = asked.and_then(|asked| asked.id.clone());
    let id = id.unwrap_or_else(Id::random);
    let pool = if is_coroutine { Pool::Loop } else { order.pool };
    let this = make(link, &core, function, pool, now())?;
    let cell = this.get();
    policy::with(cell, |rules| {
        rules.policy = order.policy.as_ref().map(|policy| policy.clone().unbind());
        rules.start = asked.and_then(|asked| asked.start);
    });
    cell.extra().lock().id = Some(id.clone());
    if let Some((tasks, _)) = &order.follows {
        let after = tasks.iter().filter_map(|before| match before {
            Before::Id(id) => Some(id.clone()),
            // No task can wait for it yet.
            Before::Place(_) => None,
        });
        durable::set_followed(cell, after.collect());
    }
    if is_coroutine {
        cell.mark_coroutine();
    }
    if may_submit()? {
        cell.mark_of_teardown();
    }
    let text = id.to_string();
    if link.add(&text, &this).is_some() {
        return Err(id_is_taken(&id));
    }
    let born = cell.born() / 1_000;
    let start = asked.and_then(|asked| asked.start);
    let (due, countdown) = match start {
        // From the end of the task before.
        Some(Start::After(time)) if how.is_some() => (None, Some(micros(time))),
        Some(Start::After(time)) => (Some(born.saturating_add(micros(time))), None),
        Some(Start::At(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (Some(micros(since)), None)
        }
        None => (None, None),
    };
    let is_strict = asked.and_then(|asked| asked.unique) == Some(Twin::AnError);
    let expires = asked.and_then(|asked| asked.expires);
    let row = NewTask {
        id: text.clone(),
        function: order.name.clone(),
        pool,
        arguments: call.clone(),
        options: order.options.clone(),
        rank: asked.map_or(born, |asked| asked.rank(policy::ready(cell)) / 1_000),
        due: due.filter(|due| *due > born),
        expires: expires.map(|expires| born.saturating_add(micros(expires))),
        unique,
        once: order.once.clone(),
        limits: limits.map(Box::new),
        is_strict,
        sync: order.disk,
        follows: order.follows.map(|(tasks, how)| Follows {
            tasks,
            how,
            countdown,
        }),
    };
    let offer = Offer {
        this,
        core,
        id: text,
        name: order.name,
        call,
        once: order.once,
        is_strict,
    };
    Ok((offer, row))
}

/// What the journal's answer makes of a task: its future, or that of the task that stands for it.
///
/// # Errors
///
/// `DuplicateTask`, `QueueFull`, `LookupError`: it is not accepted.
pub(crate) fn settle<'py>(
    link: &Arc<Link>,
    offer: Offer<'py>,
    accepted: Accepted,
) -> PyResult<Bound<'py, Task>> {
    let this = offer.this;
    let cell = this.get();
    let py = this.py();
    match accepted {
        Accepted::Waiting => {
            tell(&this, &offer.core);
            return Ok(this);
        }
        Accepted::Mine(claim) => {
            durable::claim_here(cell, claim);
            tell(&this, &offer.core);
            begin(&this, link, &offer.core, &offer.call);
            return Ok(this);
        }
        _ => link.remove(&offer.id),
    }
    match accepted {
        Accepted::Twin { id, function, by } => {
            if by == Key::Once && function != offer.name {
                return Err(PyValueError::new_err(format!(
                    "the option 'once' is {:?}, which belongs to a task of {function:?} already, \
                     not of {:?}: give each function keys of its own",
                    offer.once.unwrap_or_default(),
                    offer.name
                )));
            }
            twin(link, py, &offer.name, &id, offer.is_strict.then_some(by))
        }
        Accepted::Full => Err(QueueFull::new_err(FULL)),
        Accepted::Missing(id) => Err(PyLookupError::new_err(format!(
            "there is no task {id} in the journal for {:?} to follow: it was forgotten, its \
             transaction is not committed, or it belongs to another journal",
            offer.name
        ))),
        _ => Err(id_is_taken(&Id::new(&offer.id))),
    }
}

/// Makes a task that [`accept`] submits later, and its row as a dict: for an outbox.
///
/// # Errors
///
/// What the codec refuses, `DuplicateTask`.
pub(crate) fn draft<'py>(
    link: &Arc<Link>,
    order: Order<'py>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<(Bound<'py, Task>, Bound<'py, PyDict>)> {
    let (offer, row) = offer_call(link, order, arguments)?;
    let dict = PyDict::new(offer.this.py());
    dict.set_item("id", row.id)?;
    dict.set_item("function", row.function)?;
    dict.set_item("pool", row.pool as u8)?;
    dict.set_item("arguments", row.arguments)?;
    dict.set_item("options", row.options)?;
    dict.set_item("rank", row.rank)?;
    dict.set_item("due", row.due)?;
    dict.set_item("expires", row.expires)?;
    dict.set_item("unique", row.unique)?;
    dict.set_item("once", row.once)?;
    if let Some(limits) = row.limits {
        let (count, span) = limits.rate.unzip();
        dict.set_item("limit_key", limits.key)?;
        dict.set_item("limit", limits.limit)?;
        dict.set_item("rate_count", count)?;
        dict.set_item("rate_span", span)?;
    }
    Ok((offer.this, dict))
}

/// The pool of this number, as Python and drafts have it.
pub(crate) fn pool_of(number: u8) -> Pool {
    match number {
        1 => Pool::Loop,
        2 => Pool::Processes,
        _ => Pool::Threads,
    }
}

/// The row that [`draft`] has shown as a dict.
pub(crate) fn row_of(dict: &Bound<'_, PyDict>) -> PyResult<NewTask> {
    fn item<'py, T: FromPyObjectOwned<'py>>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<T> {
        let value = dict.as_any().get_item(key)?;
        value.extract().map_err(Into::into)
    }
    Ok(NewTask {
        id: item(dict, "id")?,
        function: item(dict, "function")?,
        pool: pool_of(item(dict, "pool")?),
        arguments: item(dict, "arguments")?,
        options: item(dict, "options")?,
        rank: item(dict, "rank")?,
        due: item(dict, "due")?,
        expires: item(dict, "expires")?,
        unique: item(dict, "unique")?,
        once: item(dict, "once")?,
        limits: match dict.get_item("limit_key")? {
            None => None,
            Some(key) => Some(Box::new(Limits {
                key: key.extract()?,
                limit: item(dict, "limit")?,
                rate: item::<Option<u64>>(dict, "rate_count")?.zip(item(dict, "rate_span")?),
            })),
        },
        is_strict: false,
        // `Journal::carry` decides.
        sync: false,
        follows: None,
    })
}

/// The answer to [`accept`].
pub(crate) enum Answer {
    /// The journal has the task, or has had it.
    Known,
    /// The task with this id has the same key.
    Twin(String),
    /// The journal takes no more tasks now.
    Full,
}

/// Submits the rows of drafts, of whichever process; of two calls with one row the second does nothing.
/// When this returns, the journal has the tasks. The answers are in the order of the rows.
///
/// # Errors
///
/// `JournalUnavailable` if there is no journal; for a single task, as its answer.
pub(crate) fn accept(
    link: &Arc<Link>,
    py: Python<'_>,
    rows: Vec<NewTask>,
) -> PyResult<Vec<PyResult<Answer>>> {
    let tasks: Vec<_> = rows.iter().map(unclaimed).collect();
    let accepted = link.ask(py, |journal| Ok(journal.carry(rows)))?;
    let mut begun = Vec::new();
    let answers = tasks
        .into_iter()
        .zip(accepted)
        .map(|(task, accepted)| {
            follow(link, py, task, accepted.map_err(link::refusal)?, &mut begun)
        })
        .collect();
    // As any claimed rows: a worker finds this process's future of each, or makes one.
    link.run(begun);
    Ok(answers)
}

/// The task of a row, as this process would claim it.
fn unclaimed(row: &NewTask) -> Claimed {
    Claimed {
        claim: Claim {
            task: 0,
            epoch: 0,
            attempt: 0,
        },
        id: row.id.clone(),
        function: row.function.clone(),
        pool: row.pool,
        arguments: row.arguments.clone(),
        options: row.options.clone(),
        submitted_at: to_micros(now()),
        began: None,
        tick: None,
        kept: Kept::default(),
    }
}

/// Applies the journal's answer for a row to the future of its draft.
fn follow(
    link: &Arc<Link>,
    py: Python<'_>,
    task: Claimed,
    accepted: Accepted,
    begun: &mut Vec<Claimed>,
) -> PyResult<Answer> {
    let own = link.find(py, &task.id);
    let tell = || {
        if let Some(this) = &own
            && let Some(core) = this.get().core()
        {
            tell(this, core);
        }
    };
    match accepted {
        Accepted::Waiting => tell(),
        Accepted::Mine(claim) => {
            tell();
            begun.push(Claimed { claim, ..task });
        }
        // It follows none that could be missing.
        Accepted::Taken | Accepted::Missing(_) => {
            if let Some(this) = own.filter(|this| !this.get().phase().is_done()) {
                attach(link, &this, &task.id)?;
            }
        }
        Accepted::Twin { id, .. } => {
            link.remove(&task.id);
            if let Some(this) = own {
                // It ends as that one does, which is counted already.
                this.get().mark_ended_elsewhere();
            }
            return Ok(Answer::Twin(id));
        }
        Accepted::Full => return Ok(Answer::Full),
    }
    Ok(Answer::Known)
}

/// Ties a draft of this process to its row, which another one has submitted.
fn attach(link: &Arc<Link>, this: &Bound<'_, Task>, id: &str) -> PyResult<()> {
    match link.ask(this.py(), |journal| journal.watch(id))? {
        Found::Row(row) => show(link, this, *row),
        // Not unknown: the journal has just found it.
        Found::Gone | Found::Unknown => {
            link.remove(id);
            let error = ResultNotKept::new_err(
                "the task has ended in another process, and the journal has forgotten it since",
            );
            this.get().mark_ended_elsewhere();
            end_draft(this, End::Raised(into_exception(this.py(), error)));
        }
    }
    Ok(())
}

/// Cancels a draft that was not submitted, and never will be.
pub(crate) fn withdraw(link: &Arc<Link>, this: &Bound<'_, Task>) {
    link.remove(&this.get().quiet_id().to_string());
    this.get().forget_id(this);
    end_draft(this, End::Cancelled);
}

fn end_draft(this: &Bound<'_, Task>, end: End<'_>) {
    // From here on, no other thread starts or cancels it.
    if this.get().claim_start() {
        completion::discard_call(this);
        completion::finish_detached(this, end, None);
    }
}

/// Notifies subscribers that a task was accepted. It is in the journal: a pool that has been closed
/// since refuses it no more.
fn tell(this: &Bound<'_, Task>, core: &Arc<Core>) {
    if let Err(error) = announce(this, core) {
        drop(error);
    }
}

/// The future of the task that has the same key; an error if it is `refused` by that key.
#[cold]
fn twin<'py>(
    link: &Arc<Link>,
    py: Python<'py>,
    name: &str,
    id: &str,
    refused: Option<Key>,
) -> PyResult<Bound<'py, Task>> {
    let why = match refused {
        Some(Key::Unique) => "the same key already, which is not done",
        Some(Key::Once) => "the same key of 'once' already, done or not",
        None => {
            return get(link, py, id)?.ok_or_else(|| {
                DuplicateTask::new_err(format!(
                    "a task with the same key, {id}, has just been forgotten: submit again"
                ))
            });
        }
    };
    Err(DuplicateTask::new_err(format!(
        "there is a task of {name:?} with {why}: {id}"
    )))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The key of a unique task as text, the same in all processes.
fn unique_key<'py>(
    py: Python<'py>,
    asked: &Policy,
    name: &str,
    given: &Given<'py>,
    most: usize,
) -> PyResult<String> {
    if let Some(key) = asked.key_of(py, || Ok(given.clone()))? {
        return json::encode(&key, most);
    }
    let (positional, named) = given;
    let sorted = named.as_ref().map(|named| {
        let keys = named.keys();
        keys.sort()?;
        let sorted = PyDict::new(named.py());
        for key in keys {
            sorted.set_item(&key, named.get_item(&key)?)?;
        }
        Ok::<_, PyErr>(sorted)
    });
    let call = json::encode_call(name, positional, sorted.transpose()?.as_ref(), None, most)?;
    Ok(format!("{name} {call}"))
}

/// A task without arguments, which its row has.
pub(crate) fn make<'py>(
    link: &Arc<Link>,
    core: &Arc<Core>,
    function: Bound<'py, PyAny>,
    pool: Pool,
    born: u64,
) -> PyResult<Bound<'py, Task>> {
    let py = function.py();
    if core.is_broken() {
        return Err(broken());
    }
    let inner = core.executor().ok_or_else(closed)?;
    let scope = match &inner.scoped {
        None => Slot::default(),
        Some(scoped) => Slot::new(scoped.scope.get(py)?),
    };
    let none = Slot::default;
    let call = Call::new(Slot::new(function), Shape::Packed, none(), none());
    let cell = Task::for_task(Arc::clone(core), scope, call, none(), born);
    let this = new_future(py, cell)?;
    policy::begin(this.get(), |rules| {
        rules.durable = Some(Box::new(Durable::new(Arc::clone(link), pool)));
    });
    this.get().mark_journaled();
    Ok(this)
}

/// Gives a claimed task its arguments and dispatches it.
fn begin(this: &Bound<'_, Task>, link: &Link, core: &Arc<Core>, call: &str) {
    let py = this.py();
    if let Err(error) = fill(this, link, call) {
        completion::give_up(this, error);
        return;
    }
    if this.get().is_coroutine() {
        if let Err(error) = dispatch::hand_over(this, core) {
            completion::give_up(this, error);
        }
        return;
    }
    completion::give_worker(py, core, Job::Task(this.clone().unbind()));
}

/// Gives a task that has not started the arguments of its row.
fn fill(this: &Bound<'_, Task>, link: &Link, call: &str) -> PyResult<()> {
    let py = this.py();
    let exceptions = link.hooks.decode_error.bind(py);
    let (positional, named) = json::decode_call(py, call, Some(exceptions))?;
    let (values, names) = match named {
        None => (positional, None),
        Some(named) => {
            let values = positional.iter().chain(named.values());
            let values = PyTuple::new(py, values.collect::<Vec<_>>())?;
            (values, Some(PyTuple::new(py, named.keys())?))
        }
    };
    let taken = TakenCall {
        function: None,
        first: Some(values.into_any()),
        second: names.map(Bound::into_any),
        context: None,
        shape: Shape::Packed,
    };
    this.get().put_call(this, taken);
    Ok(())
}

/// Prepares a claimed row. Returns the task for the calling worker to run; `None` if it runs
/// elsewhere, or not at all.
pub(crate) fn prepare<'py>(
    py: Python<'py>,
    link: &Arc<Link>,
    mut claimed: Claimed,
) -> Option<Bound<'py, Task>> {
    let (this, core) = match find_or_make(py, link, &claimed) {
        Ok(found) => found,
        Err(error) => {
            let change = unfit(py, link, error);
            if let Change::Park { reason } = &change {
                let name = &claimed.function;
                link.warn_once(format!("parked {name}"), || {
                    format!(
                        "tasks of {name:?} wait in the journal for code that can run them, the \
                         first of them is {}: {reason}",
                        claimed.id
                    )
                });
            }
            link::give_back(link, &claimed, change);
            return None;
        }
    };
    let cell = this.get();
    // In one section, on which `show` and `finish` wait: a task with a claim is not shown as running
    // elsewhere, and does not end as an earlier run of its row did.
    let is_claimed = with_critical_section(this.as_any(), || {
        if cell.ended_elsewhere() {
            return false;
        }
        // It may have been shown so before.
        let _ = cell.phase() == Phase::Running && cell.run_again();
        durable::set_claim(cell, claimed.claim, std::mem::take(&mut claimed.kept));
        durable::set_tick(cell, claimed.tick);
        true
    });
    if !is_claimed {
        // It is forgotten by now, so this makes another one.
        return prepare(py, link, claimed);
    }
    if let Some(began) = claimed.began.filter(|_| claimed.claim.attempt > 1) {
        policy::with(cell, |rules| {
            rules.first_start.get_or_insert(to_nanos(began));
        });
    }
    let is_own = link.core().is_some_and(|own| Arc::ptr_eq(&own, &core));
    if !is_own || cell.is_coroutine() {
        begin(&this, link, &core, &claimed.arguments);
        return None;
    }
    if let Err(error) = fill(&this, link, &claimed.arguments) {
        completion::give_up(&this, error);
        return None;
    }
    cell.enter_queue();
    Some(this)
}

/// The task of this process for a claimed row, and its executor.
fn find_or_make<'py>(
    py: Python<'py>,
    link: &Arc<Link>,
    claimed: &Claimed,
) -> PyResult<(Bound<'py, Task>, Arc<Core>)> {
    if let Some(this) = link.find(py, &claimed.id)
        && !this.get().phase().is_done()
        && has_function(&this)
        && let Some(core) = this.get().core().cloned()
    {
        return Ok((this, core));
    }
    let revive = link.hooks.revive.bind(py);
    let (function, policy, executor) = revive
        .call1((&claimed.function, &claimed.options))?
        .extract::<(
            Bound<'py, PyAny>,
            Option<Bound<'py, Policy>>,
            Option<Bound<'py, ExecutorCell>>,
        )>()?;
    let (positional, named) = json::decode_call(
        py,
        &claimed.arguments,
        Some(link.hooks.decode_error.bind(py)),
    )?;
    let keywords = named
        .map(|named| {
            named
                .keys()
                .iter()
                .map(Bound::cast_into::<PyString>)
                .collect::<Result<Vec<_>, _>>()
        })
        .transpose()?;
    let target = target(&function)?;
    signature::check_call(&target, positional.len(), keywords.unwrap_or_default())?;
    let core = match executor {
        Some(executor) => {
            let core = Arc::clone(executor.get().core()?);
            link.set_processes(&core);
            core
        }
        None => link.core().ok_or_else(closed)?,
    };
    let is_coroutine = check_function(&function, "task")?.without_items(&function, NO_ITEMS)?;
    let born = to_nanos(claimed.submitted_at);
    let this = match link.find(py, &claimed.id) {
        // A handle, which others may have: it gets the function.
        Some(this) if !this.get().phase().is_done() => {
            let taken = TakenCall {
                function: Some(function),
                first: None,
                second: None,
                context: None,
                shape: Shape::Packed,
            };
            this.get().put_call(&this, taken);
            this
        }
        _ => {
            let this = make(link, &core, function, claimed.pool, born)?;
            this.get().extra().lock().id = Some(Id::new(&claimed.id));
            link.remove(&claimed.id);
            link.add(&claimed.id, &this);
            this
        }
    };
    if is_coroutine {
        this.get().mark_coroutine();
    }
    policy::with(this.get(), |rules| {
        rules.policy = policy.map(Bound::unbind);
    });
    Ok((this, core))
}

/// The function itself, for an object that calls it in a child process.
pub(crate) fn target<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if function.cast::<PyFunction>().is_ok() {
        return Ok(function.clone());
    }
    let target = function.getattr_opt(names::__wrapped__(function.py()))?;
    Ok(target.unwrap_or_else(|| function.clone()))
}

/// Whether the task has its function, and not only a name.
fn has_function(this: &Bound<'_, Task>) -> bool {
    let function = this.get().call.function.get(this.py());
    function.is_some_and(|function| function.is_callable())
}

/// The answer for a row that this process cannot run.
fn unfit(py: Python<'_>, link: &Arc<Link>, error: PyErr) -> Change {
    if error.is_instance_of::<PyLookupError>(py) || error.is_instance_of::<PyTypeError>(py) {
        return Change::Park {
            reason: error.value(py).to_string(),
        };
    }
    if link.core().is_none_or(|core| core.pool().is_closed()) {
        return Change::PutBack;
    }
    let reason = error.to_string();
    Change::Park { reason }
}

/// The future of a row: this process's task, or a handle. None for an id that no row has.
pub(crate) fn get<'py>(
    link: &Arc<Link>,
    py: Python<'py>,
    id: &str,
) -> PyResult<Option<Bound<'py, Task>>> {
    if let Some(this) = link.find(py, id) {
        return Ok(Some(this));
    }
    let core = link.core().ok_or_else(closed)?;
    let row = match link.ask(py, |journal| journal.get(id))? {
        Found::Row(row) => row,
        Found::Gone | Found::Unknown => return Ok(None),
    };
    let born = to_nanos(row.submitted_at);
    let label = PyString::new(py, label(&row.function)).into_any();
    let this = make(link, &core, label, Pool::Threads, born)?;
    this.get().extra().lock().id = Some(Id::new(id));
    // Before the journal is asked to report the end.
    if let Some(known) = link.add(id, &this) {
        return Ok(Some(known));
    }
    let watched = link
        .ask(py, |journal| journal.watch(id))
        .inspect_err(|_| link.remove(id))?;
    match watched {
        Found::Row(row) => show(link, &this, *row),
        Found::Gone | Found::Unknown => {
            link.remove(id);
            return Ok(None);
        }
    }
    Ok(Some(this))
}

/// In a forked child, this process's handle of a durable task of the parent.
///
/// # Errors
///
/// `ForkedFutureError` for a task that is not durable.
#[cold]
pub(crate) fn own<'py>(this: &Bound<'py, Task>) -> PyResult<Bound<'py, Task>> {
    let known = this.get().known_extra();
    // A thread of the parent may have held the lock when the process was forked.
    let found = known.and_then(Mutex::try_lock).and_then(|extra| {
        let durable = extra.rules.as_ref()?.durable.as_ref()?;
        Some((Arc::clone(&durable.link), extra.id.clone()?))
    });
    let found = found.map(|(link, id)| get(&link, this.py(), &id.to_string()));
    let found = found.transpose()?.flatten();
    found.ok_or_else(|| forked(&name_of(this)))
}

/// The qualified name in a registered name such as "shop.tasks.tidy".
fn label(function: &str) -> &str {
    function.rsplit_once('.').map_or(function, |(_, name)| name)
}

/// The task to read the state of, with what the journal knows by now. That is the task itself or,
/// in a forked child, a handle.
pub(crate) fn current<'py>(this: &Bound<'py, Task>) -> PyResult<Bound<'py, Task>> {
    let cell = this.get();
    if !cell.is_journaled() || cell.phase().is_done() {
        return Ok(this.clone());
    }
    let this = if cell.is_foreign() {
        own(this).unwrap_or_else(|_| this.clone())
    } else {
        this.clone()
    };
    let Some(link) = durable::elsewhere(this.get()) else {
        return Ok(this);
    };
    let id = this.get().quiet_id().to_string();
    if let Found::Row(row) = link.ask(this.py(), |journal| journal.get(&id))? {
        show(&link, &this, *row);
    }
    Ok(this)
}

/// Updates the future of a task from its row.
fn show(link: &Arc<Link>, this: &Bound<'_, Task>, row: Row) {
    let cell = this.get();
    if row.state.is_end() {
        finish(link, this, row);
        return;
    }
    // See `prepare`.
    with_critical_section(this.as_any(), || {
        if !cell.phase().is_done() && !durable::has_claim(cell) {
            show_open(cell, row);
        }
    });
}

/// As [`show`], for a row that has not ended.
fn show_open(cell: &Task, row: Row) {
    policy::with(cell, |rules| rules.attempts = row.attempt);
    show_progress(cell, row.progress);
    if row.state != State::Running {
        let _ = cell.phase() == Phase::Running && cell.run_again();
        return;
    }
    // One of this process is about to run here, but for a plain one of another executor. A plain
    // task that has not begun is in a queue.
    let is_elsewhere = !row.is_mine || row.plain;
    if let Some(began) = row.began.filter(|_| is_elsewhere)
        && cell.claim_start()
    {
        cell.set_started(to_nanos(began));
    }
}

/// Copies the progress of a row, if it has any.
fn show_progress(cell: &Task, stored: Option<(f64, Option<f64>, String)>) {
    if let Some((done, total, note)) = stored {
        cell.extra().lock().progress = Some(Progress::stored(done, total, note));
    }
}

/// Ends a task as its row has ended.
fn finish(link: &Arc<Link>, this: &Bound<'_, Task>, row: Row) {
    let py = this.py();
    let cell = this.get();
    // In one section with a claim, see `prepare`.
    let ends = with_critical_section(this.as_any(), || {
        let ends = !durable::has_claim(cell);
        if ends {
            link.forget(&row.id, this);
            cell.mark_ended_elsewhere();
        }
        ends
    });
    if !ends {
        return;
    }
    show_progress(cell, row.progress);
    let end = match row.state {
        State::Cancelled => End::Cancelled,
        State::Finished => match (row.result, row.unkept) {
            (Some(result), _) => {
                match json::decode(py, &result, Some(link.hooks.decode_error.bind(py))) {
                    Ok(result) => End::Returned(result),
                    Err(error) => End::Raised(into_exception(py, error)),
                }
            }
            (None, kind) => {
                let kind = kind.unwrap_or_default();
                let error = ResultNotKept::new_err(format!(
                    "task {} ({}) has succeeded in another process, but its result, of the type \
                     {kind}, cannot be stored: return what JSON can carry",
                    label(&row.function),
                    row.id
                ));
                End::Returned(into_exception(py, error))
            }
        },
        _ => {
            let decode = link.hooks.decode_error.bind(py);
            match decode.call1((row.error.unwrap_or_default(),)) {
                Ok(exception) => End::Raised(exception),
                Err(error) => End::Raised(into_exception(py, error)),
            }
        }
    };
    policy::with(cell, |rules| rules.attempts = row.attempt);
    if let Some(began) = row.began {
        cell.set_started(to_nanos(began));
    }
    // From here on, no other thread starts or cancels it.
    if !cell.claim_start() && cell.phase() != Phase::Running {
        return;
    }
    completion::discard_call(this);
    completion::finish_detached(this, end, None);
}

/// The result of a task that ended in another process.
///
/// # Errors
///
/// `ResultNotKept` if the journal could not store it.
pub(crate) fn kept(result: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    if result.is_exact_instance_of::<ResultNotKept>() {
        return Err(PyErr::from_value(result));
    }
    Ok(result)
}

/// Acts on a message from the journal; called by the courier.
pub(crate) fn deliver(py: Python<'_>, link: &Arc<Link>, message: Message) {
    match message {
        Message::Ended(rows) => {
            for row in rows {
                if let Some(this) = link.find(py, &row.id) {
                    finish(link, &this, row);
                }
            }
        }
        Message::Stop(id) => {
            let known = || link.known(py, &id);
            if let Some(this) = link.find(py, &id).or_else(known)
                && let Err(error) = timeout::stop(&this, Some(PATIENCE))
            {
                error.write_unraisable(py, Some(&this));
            }
        }
        Message::Report(level, text) => logging::plain(py, level, &text),
        Message::Dead(letters) => {
            for letter in letters {
                bury(py, link, letter);
            }
        }
        Message::Stored(Stored { task, end, note }) => {
            let this = task.into_bound(py);
            completion::finish_detached(&this, end.into_end(py), note);
            completion::leave(&this);
        }
        Message::Stepped {
            step,
            told,
            changed,
        } => kept::stepped(py, step.bind(py), told.bind(py), changed),
        Message::Permit {
            task,
            permit,
            granted,
        } => dispatch::permitted(task.bind(py), permit, granted),
        Message::Close => {}
    }
}

/// Notes a dead letter, and has a worker send its signal.
fn bury(py: Python<'_>, link: &Arc<Link>, letter: DeadLetter) {
    let Some(core) = link.core() else {
        return;
    };
    events::died(&core, &letter.id, label(&letter.function));
    if !events::wanted(Kind::Dead).by(Subscriber::Signals) {
        return;
    }
    let send = link.hooks.dead.clone_ref(py);
    let tell = PyCFunction::new_closure(py, Some(c"dead"), None, move |args, _| {
        let name = label(&letter.function);
        let values = (&letter.id, name, letter.deaths, &letter.error);
        send.bind(args.py()).call1(values).map(drop)
    });
    match tell {
        Ok(tell) => completion::give_worker(py, &core, Job::Tick(tell.into_any().unbind())),
        Err(error) => error.write_unraisable(py, None),
    }
}

/// How long a task that another process stops has to notice it, as in `Future.stop`.
const PATIENCE: Duration = Duration::from_secs(1);

/// Puts a task back into the journal, for another process: this one is about to end.
pub(crate) fn put_back(this: &Bound<'_, Task>) {
    if let Some(taken) = durable::take_claim(this.get()) {
        // Its waiters here see that it waits, and hear of its end.
        let _ = this.get().run_again();
        change(this, taken, Change::PutBack);
    }
}

/// Counts the death of the child process that ran the task, which runs again or is a dead letter.
pub(crate) fn die(this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) {
    if let Some(taken) = durable::take_claim(this.get()) {
        logging::process_died(this, exception);
        // As in `put_back`.
        let _ = this.get().run_again();
        if let Err(error) = taken.die(this, exception) {
            let text = durable::lost(this.get(), &error);
            logging::plain(this.py(), log::Level::Error, &text);
        }
    }
}

/// Schedules another attempt of a task, which any process may run; `false` if it is not durable.
pub(crate) fn again(this: &Bound<'_, Task>, after: Duration, why: Option<String>) -> bool {
    let Some(taken) = durable::take_claim(this.get()) else {
        return false;
    };
    let due = (!after.is_zero()).then(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        micros(now.unwrap_or_default().saturating_add(after))
    });
    change(this, taken, Change::Again { due, why });
    true
}

fn change(this: &Bound<'_, Task>, taken: durable::TakenClaim, change: Change) {
    let py = this.py();
    if let Err(error) = taken.change(py, change) {
        logging::plain(py, log::Level::Error, &durable::lost(this.get(), &error));
    }
}

/// The row of a task as a dict.
pub(crate) fn view(py: Python<'_>, row: Row) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", row.id)?;
    dict.set_item("function", &row.function)?;
    dict.set_item("name", label(&row.function))?;
    dict.set_item("state", name_of_state(row.state))?;
    dict.set_item("plain", row.plain)?;
    dict.set_item("attempts", row.attempt)?;
    dict.set_item("deaths", row.deaths)?;
    dict.set_item("stop_requested", row.stop_requested)?;
    dict.set_item("due", row.due)?;
    dict.set_item("expires", row.expires)?;
    dict.set_item("submitted_at", row.submitted_at)?;
    dict.set_item("began", row.began)?;
    dict.set_item("ended", row.ended)?;
    let progress = row
        .progress
        .map(|(done, total, note)| Progress::stored(done, total, note).into_tuple(py));
    dict.set_item("progress", progress.transpose()?)?;
    dict.set_item("result", row.result)?;
    dict.set_item("unkept", row.unkept)?;
    dict.set_item("error", row.error)?;
    dict.set_item("reason", row.reason)?;
    dict.set_item("is_paused", row.is_paused)?;
    dict.set_item("after", row.after)?;
    dict.set_item("waiting_for", row.waiting_for)?;
    let lane = row.lane.map(|lane| lane_of(py, *lane));
    dict.set_item("lane", lane.transpose()?)?;
    dict.set_item("is_held", row.is_held)?;
    dict.set_item("place", row.place)?;
    dict.set_item("pid", row.pid)?;
    dict.set_item("attempt_began", row.attempt_began)?;
    dict.set_item("options", row.options)?;
    dict.set_item("arguments", row.arguments)?;
    Ok(dict)
}

/// What a plain task with limits on the machine waits for; None if nothing.
pub(crate) fn held<'py>(this: &Bound<'py, Task>) -> PyResult<Option<Bound<'py, PyDict>>> {
    let py = this.py();
    let Some((link, permit)) = permits::permit_of(this.get()) else {
        return Ok(None);
    };
    let held = link.ask(py, |journal| journal.held(permit))?;
    held.map(|held| lane_of(py, *held)).transpose()
}

/// The limits of a task as a dict: the key, whether it was given as an option, the limit, how many
/// tasks run, the rate, and when it allows the next start.
fn lane_of(py: Python<'_>, held: Held) -> PyResult<Bound<'_, PyDict>> {
    let Limits { key, limit, rate } = held.limits;
    let dict = PyDict::new(py);
    let given = key.strip_prefix(KEY);
    dict.set_item("key", given.unwrap_or(label(&key)))?;
    dict.set_item("is_given", given.is_some())?;
    dict.set_item("limit", limit)?;
    dict.set_item("running", held.running)?;
    dict.set_item("rate", rate)?;
    dict.set_item("until", held.until)?;
    Ok(dict)
}

pub(crate) fn name_of_state(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Scheduled => "scheduled",
        State::Running => "running",
        State::Blocked => "blocked",
        State::Parked => "parked",
        State::Finished => "finished",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Dead => "dead",
    }
}
