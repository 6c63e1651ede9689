//! Several durable tasks at once: those of a chain, many of one function, and one that gathers the
//! results of others.

use std::sync::Arc;

use flask_delay_journal::{Accepted, Before, GATHER, How, Pool};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::durable::{self as entry, Offer, Order};
use crate::bindings::core::async_check::check_function;
use crate::bindings::core::durable;
use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::link::Link;
use crate::bindings::core::machine::Given;
use crate::bindings::core::options::Policy;
use crate::bindings::core::signature;
use crate::bindings::core::task::Task;

/// A task of `_Journal.submit_all`.
#[derive(FromPyObject)]
pub(crate) struct Call<'py>(
    String,
    u8,
    Option<Bound<'py, Policy>>,
    Option<String>,
    Option<String>,
    bool,
    Option<Bound<'py, ExecutorCell>>,
    Bound<'py, PyAny>,
    Bound<'py, PyTuple>,
    Bound<'py, PyDict>,
    Option<Waits>,
);

/// What it waits for: an end or a success of the task with an id, or of the one before.
#[derive(FromPyObject)]
struct Waits(String, Option<String>);

impl Waits {
    fn read(self, number: usize) -> PyResult<(Vec<Before>, How)> {
        let Self(on, id) = self;
        let how = match &*on {
            "end" => How::End,
            _ => How::Success,
        };
        let before = match id {
            Some(id) => Before::Id(id),
            None => number.checked_sub(1).map(Before::Place).ok_or_else(|| {
                PyValueError::new_err("the first task follows none of this submission")
            })?,
        };
        Ok((vec![before], how))
    }
}

/// Accepts tasks in one commit. Those of a chain are accepted together or not at all; otherwise
/// those before the first one that is refused are.
///
/// # Errors
///
/// As `durable::submit`, for the first task that is refused.
pub(crate) fn submit_all<'py>(
    link: &Arc<Link>,
    py: Python<'py>,
    calls: Vec<Call<'py>>,
) -> PyResult<Vec<Bound<'py, Task>>> {
    let is_chain = (calls.iter()).any(|call| matches!(call.10, Some(Waits(_, None))));
    let (mut offers, mut rows, mut failed) = (Vec::new(), Vec::new(), None);
    for (number, call) in calls.into_iter().enumerate() {
        match offer(link, call, number) {
            Ok((offer, row)) => {
                offers.push(offer);
                rows.push(row);
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if rows.is_empty() || (is_chain && failed.is_some()) {
        withdraw(link, &offers);
        return failed.map_or_else(|| Ok(Vec::new()), Err);
    }
    let done = link
        .ask(py, |journal| journal.submit_all(rows))
        .inspect_err(|_| withdraw(link, &offers))?;
    let mut futures = Vec::with_capacity(offers.len());
    let mut offers = offers.into_iter();
    for (accepted, offer) in done.accepted.into_iter().zip(&mut offers) {
        futures.push(entry::settle(link, offer, accepted)?);
    }
    let left: Vec<_> = offers.collect();
    let Some((number, why)) = done.refused else {
        return failed.map_or(Ok(futures), Err);
    };
    withdraw(link, &left);
    // Of a chain, none is accepted.
    let place = number.saturating_sub(futures.len());
    match left.into_iter().nth(place) {
        Some(refused) => {
            entry::settle(link, refused, why)?;
            Ok(futures)
        }
        None => Ok(futures),
    }
}

fn withdraw(link: &Arc<Link>, offers: &[Offer<'_>]) {
    for offer in offers {
        link.remove(&offer.id);
    }
}

fn offer<'py>(
    link: &Arc<Link>,
    call: Call<'py>,
    number: usize,
) -> PyResult<(Offer<'py>, flask_delay_journal::NewTask)> {
    let Call(name, pool, policy, options, once, disk, executor, function, args, kwargs, waits) =
        call;
    let follows = waits.map(|waits| waits.read(number)).transpose()?;
    let is_coroutine =
        check_function(&function, "task")?.without_items(&function, entry::NO_ITEMS)?;
    let keywords = kwargs.keys().into_iter();
    let keywords = keywords.map(|name| Ok(name.cast_into::<PyString>()?));
    let takes_result = matches!(&follows, Some((_, How::Success)));
    let count = args.len() + usize::from(takes_result);
    signature::check_call(
        &entry::target(&function)?,
        count,
        keywords.collect::<PyResult<_>>()?,
    )?;
    let order = Order {
        name,
        pool: entry::pool_of(pool),
        policy,
        options,
        once,
        disk,
        executor: match executor {
            Some(executor) => Some(Arc::clone(executor.get().core()?)),
            None => None,
        },
        follows,
    };
    let given: Given<'py> = (args, (!kwargs.is_empty()).then_some(kwargs));
    entry::offer(link, order, function, is_coroutine, &given)
}

/// Whether a task is a durable one of this journal.
pub(crate) fn is_of(link: &Arc<Link>, future: &Bound<'_, Task>) -> bool {
    durable::link_of(future.get()).is_some_and(|(its, _)| Arc::ptr_eq(&its, link))
}

/// The journal of all these tasks, if they are durable.
pub(crate) fn common_link(futures: &[Bound<'_, Task>]) -> Option<Arc<Link>> {
    let (link, _) = durable::link_of(futures.first()?.get())?;
    futures.iter().all(|it| is_of(&link, it)).then_some(link)
}

/// A task of the journal whose result is the list of the results of others, with exceptions if that
/// is asked for; `None` if the journal does not have one of them: it was forgotten, or waits for its
/// transaction.
pub(crate) fn gather<'py>(
    link: &Arc<Link>,
    function: Bound<'py, PyAny>,
    futures: &[Bound<'py, Task>],
    has_exceptions: bool,
) -> PyResult<Option<Bound<'py, Task>>> {
    let py = function.py();
    let before = futures
        .iter()
        .map(|it| Before::Id(it.get().quiet_id().to_string()));
    let how = if has_exceptions {
        How::GatherAll
    } else {
        How::Gather
    };
    let order = Order {
        name: GATHER.to_owned(),
        pool: Pool::Threads,
        policy: None,
        options: None,
        once: None,
        disk: false,
        executor: None,
        follows: Some((before.collect(), how)),
    };
    let none = (PyTuple::empty(py), None);
    let (offer, row) = entry::offer(link, order, function, false, &none)?;
    let accepted = link
        .ask(py, |journal| journal.submit(row))
        .inspect_err(|_| link.remove(&offer.id))?;
    if matches!(accepted, Accepted::Missing(_)) {
        link.remove(&offer.id);
        return Ok(None);
    }
    entry::settle(link, offer, accepted).map(Some)
}
