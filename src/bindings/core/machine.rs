//! Limits that hold on the whole machine: those of durable tasks, and of plain ones with
//! `scope="machine"`. The journal counts for them.
//!
//! A durable task's row is what counts. A plain task asks the journal for a permit before each
//! attempt, is held meanwhile, and gives it back after the attempt. What took a permit out of its
//! task's rules gives it back; no other does.
//!
//! Lock order: `Extra`, then that of [`Holders`].

use std::collections::HashMap;
use std::sync::Arc;

use flask_delay_engine::Mutex;
use flask_delay_journal::{Error, Limits, NewPermit, Permit};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::durable::{self, Link, Message};
use super::executor::Core;
use super::keys::address;
use super::options::Policy;
use super::policy;
use super::task::Task;
use super::task_name::name_of;
use crate::bindings::codec::json;
use crate::bindings::ffi::arguments::Arguments;

/// The arguments of a call.
pub(crate) type Given<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

/// Before a key that was given as an option; no name of a function begins with it.
pub(crate) const KEY: &str = "=";

/// How many of its key may run and start, if a task has a limit or a rate. The key is that of the
/// function, by its `name`, or the option as text, the same in all processes.
pub(crate) fn limits<'py>(
    py: Python<'py>,
    asked: &Policy,
    most: usize,
    name: impl FnOnce() -> PyResult<String>,
    given: impl FnOnce() -> PyResult<Given<'py>>,
) -> PyResult<Option<Limits>> {
    let Some(terms) = asked.terms(0) else {
        return Ok(None);
    };
    let key = match asked.key_of(py, given)? {
        Some(key) => format!("{KEY}{}", json::encode(&key, most)?),
        None => name()?,
    };
    let number = |number| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(Some(Limits {
        key,
        limit: terms.limit.map(number),
        rate: terms.rate.map(|rate| {
            let span = u64::try_from(rate.per.as_micros()).unwrap_or(u64::MAX);
            (number(rate.count), span)
        }),
    }))
}

/// The plain tasks of this process that have a place in a lane, by the lane's key.
#[derive(Default)]
pub(crate) struct Holders {
    /// A leaf.
    lanes: Mutex<HashMap<String, Vec<Holder>>>,
}

#[derive(Clone, Copy)]
struct Holder {
    permit: Permit,
    /// The address of its task, which lives meanwhile.
    task: usize,
    limit: u64,
}

impl Holders {
    fn add(&self, key: &str, holder: Holder) {
        let mut lanes = self.lanes.lock();
        lanes.entry(key.to_owned()).or_default().push(holder);
    }

    fn remove(&self, key: &str, permit: Permit) {
        let mut lanes = self.lanes.lock();
        if let Some(holders) = lanes.get_mut(key) {
            holders.retain(|it| it.permit != permit);
            if holders.is_empty() {
                lanes.remove(key);
            }
        }
    }

    fn of(&self, key: &str) -> Vec<Holder> {
        self.lanes.lock().get(key).cloned().unwrap_or_default()
    }
}

/// Where a plain task waits for its turn.
pub(crate) struct Place {
    link: Arc<Link>,
    limits: Limits,
    /// From when it is asked for until it is given back.
    permit: Option<Permit>,
}

/// A permit that was taken out of its task.
#[must_use = "the lane would go on counting it"]
pub(crate) struct Taken {
    link: Arc<Link>,
    permit: Permit,
}

impl Taken {
    pub(crate) fn give_back(self) {
        self.link.tell(|journal| journal.leave(self.permit));
    }
}

impl Place {
    /// The place of a task of an executor with threads.
    ///
    /// # Errors
    ///
    /// `ValueError` without a journal; what the user's key function raises; what the codec refuses of
    /// the key; `TypeError` for a function that other processes cannot tell from others.
    pub(crate) fn new(
        asked: &Policy,
        arguments: &Arguments<'_, '_>,
        core: &Arc<Core>,
    ) -> PyResult<Option<Self>> {
        let function = &arguments.function;
        let py = function.py();
        let Some(link) = core.journal() else {
            return Err(PyValueError::new_err(
                "the option 'scope' is 'machine', but the tasks of this pool have no journal: use \
                 it with an app whose setting DELAY_JOURNAL is set",
            ));
        };
        let name = || -> PyResult<String> {
            let lane = link.hooks.lane.bind(py);
            lane.call1((Bound::clone(function),))?.extract()
        };
        let limits = limits(py, asked, link.most, name, || arguments.to_python())?;
        Ok(limits.map(|limits| Self {
            link,
            limits,
            permit: None,
        }))
    }

    /// Takes its permit, if it has asked for one. It may ask for another one.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let permit = self.permit.take()?;
        // Before it is given back, so that what is noted here is in the file too.
        self.link.holders().remove(&self.limits.key, permit);
        let link = Arc::clone(&self.link);
        Some(Taken { link, permit })
    }
}

/// Whether a plain task's limits hold on the machine.
pub(crate) fn has_place(this: &Task) -> bool {
    policy::with(this, |rules| rules.place.is_some()).unwrap_or(false)
}

/// Asks for a task's permit; `Message::Permit` follows. `false` if the task has no place there.
/// Returns at once.
pub(crate) fn ask(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    let permit = Permit::new();
    let found = policy::with(cell, |rules| {
        let place = rules.place.as_mut()?;
        place.permit = Some(permit);
        Some((Arc::clone(&place.link), place.limits.clone()))
    });
    let Some((link, limits)) = found.flatten() else {
        return false;
    };
    let new = NewPermit {
        permit,
        function: name_of(this),
        // In microseconds.
        rank: policy::rank(this) / 1_000,
        limits,
    };
    let (task, courier) = (this.clone().unbind(), Arc::clone(&link));
    let then = move |granted: Result<bool, Error>| {
        courier.send(Message::Permit {
            task,
            permit,
            granted,
        });
    };
    link.tell(move |journal| journal.enter(new, Box::new(then)));
    if cell.phase().is_done() {
        // The thread that ended it may have given the permit back before it was asked for.
        Taken { link, permit }.give_back();
    }
    true
}

/// Notes that a task's permit is granted; `false` if it has no such permit any more.
pub(crate) fn hold(this: &Bound<'_, Task>, permit: Permit) -> bool {
    policy::with(this.get(), |rules| {
        let place = rules.place.as_ref();
        let Some(place) = place.filter(|place| place.permit == Some(permit)) else {
            return false;
        };
        // One without a limit may hold a place beside any number of others.
        if let Some(limit) = place.limits.limit {
            let holder = Holder {
                permit,
                task: address(this),
                limit,
            };
            place.link.holders().add(&place.limits.key, holder);
        }
        true
    })
    .unwrap_or(false)
}

/// The blockers of a task that has not started: the addresses of tasks of this process that hold a
/// place in its lane, and how many of them must end, at least.
///
/// Those that have places are in the file, but a grant may be there that is not noted here yet. With a
/// limit above that of the task, one could have been granted after the task's own, so it does not
/// count. All others, and the task, fit into its limit once it is granted.
pub(crate) fn held_up(this: &Task) -> Option<(Vec<usize>, usize)> {
    policy::with(this, |rules| {
        let place = rules.place.as_ref()?;
        let limit = place.limits.limit?;
        let mut holders = place.link.holders().of(&place.limits.key);
        if holders.iter().any(|it| Some(it.permit) == place.permit) {
            return None;
        }
        holders.retain(|it| it.limit <= limit);
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let must_end = (holders.len() + 1).saturating_sub(limit);
        let tasks = holders.iter().map(|it| it.task).collect();
        (must_end > 0).then_some((tasks, must_end))
    })
    .flatten()
}

/// The permit that a task has asked for.
pub(crate) fn permit_of(this: &Task) -> Option<(Arc<Link>, Permit)> {
    policy::with(this, |rules| {
        let place = rules.place.as_ref()?;
        Some((Arc::clone(&place.link), place.permit?))
    })
    .flatten()
}

/// Called before a durable task that runs here ends without its code: that goes on and counts.
pub(crate) fn stay(this: &Task) {
    let Some((link, claim)) = durable::claim_of(this) else {
        return;
    };
    let permit = Permit::new();
    link.tell(|journal| journal.stay(claim, permit));
    keep_behind(this, Taken { link, permit });
}

/// Keeps a permit for as long as the code of a task goes on after its end.
pub(crate) fn keep_behind(this: &Task, permit: Taken) {
    let permit = Box::new(permit);
    policy::with(this, |rules| rules.permit_behind = Some(permit));
}
