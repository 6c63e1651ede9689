//! Limits that hold on the whole machine: those of durable tasks, and of plain ones with
//! `scope="machine"`. The journal counts for them.
//!
//! A durable task's row is what counts. A plain task asks the journal for a permit before each
//! attempt, is held meanwhile, and gives it back after the attempt. The thread that takes a
//! permit out of its task's rules returns it; no other does.
//!
//! Lock order: `Extra`, then that of [`super::holders::Holders`].

use std::sync::Arc;

use flask_delay_journal::{Limits, Permit};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::executor::Core;
use super::link::Link;
use super::options::Policy;
use crate::bindings::codec::json;
use crate::bindings::ffi::arguments::Arguments;

/// The arguments of a call.
pub(crate) type Given<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

/// The prefix of a key that was given as an option; no name of a function begins with it.
pub(crate) const KEY: &str = "=";

/// The limits of a task with the option `limit` or `rate`. Their key is the option `key` as text, or
/// the `name` of the function: the same in all processes.
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

/// The place of a plain task in a lane of the machine.
pub(crate) struct Place {
    pub(crate) link: Arc<Link>,
    pub(crate) limits: Limits,
    /// From when it is asked for until it is given back.
    pub(crate) permit: Option<Permit>,
}

/// A permit that was taken out of its task.
#[must_use = "the lane would go on counting it"]
pub(crate) struct TakenPermit {
    pub(crate) link: Arc<Link>,
    pub(crate) permit: Permit,
}

impl TakenPermit {
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
    pub(crate) fn take(&mut self) -> Option<TakenPermit> {
        let permit = self.permit.take()?;
        // Before it is given back, so that what is noted here is in the file too.
        self.link.holders().remove(&self.limits.key, permit);
        let link = Arc::clone(&self.link);
        Some(TakenPermit { link, permit })
    }

    /// The blockers of its task, which has not started: the addresses of tasks of this process that
    /// hold a place in its lane, and how many of them must end, at least.
    ///
    /// Those that have places are in the file, but a grant may be there that is not noted here yet.
    /// With a limit above that of the task, one could have been granted after the task's own, so it
    /// does not count. All others, and the task, fit into its limit once it is granted.
    pub(crate) fn held_up(&self) -> Option<(Vec<usize>, usize)> {
        let limit = self.limits.limit?;
        let mut holders = self.link.holders().of(&self.limits.key);
        if holders.iter().any(|it| Some(it.permit) == self.permit) {
            return None;
        }
        holders.retain(|it| it.limit <= limit);
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let must_end = (holders.len() + 1).saturating_sub(limit);
        let tasks = holders.iter().map(|it| it.task).collect();
        (must_end > 0).then_some((tasks, must_end))
    }
}
