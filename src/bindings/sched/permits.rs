//! Permits of the journal for tasks with `scope="machine"`, and for code that outlives a durable
//! task.

use std::sync::Arc;

use flask_delay_journal::{Error, NewPermit, Permit};
use pyo3::prelude::*;

use crate::bindings::core::durable;
use crate::bindings::core::holders::Holder;
use crate::bindings::core::keys::address;
use crate::bindings::core::link::{Link, Message};
use crate::bindings::core::machine::TakenPermit;
use crate::bindings::core::policy;
use crate::bindings::core::task::{Task, name_of};

/// Whether a plain task's limits hold on the machine.
pub(crate) fn has_place(this: &Task) -> bool {
    policy::with(this, |rules| rules.place.is_some()).unwrap_or(false)
}

/// Asks for a task's permit; `Message::Permit` follows. `false` if the task has no place there.
/// Returns at once.
pub(crate) fn ask(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    let permit = Permit::new();
    let found = policy::find(cell, |rules| {
        let place = rules.place.as_mut()?;
        place.permit = Some(permit);
        Some((Arc::clone(&place.link), place.limits.clone()))
    });
    let Some((link, limits)) = found else {
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
        TakenPermit { link, permit }.give_back();
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

/// The permit that a task has asked for.
pub(crate) fn permit_of(this: &Task) -> Option<(Arc<Link>, Permit)> {
    policy::find(this, |rules| {
        let place = rules.place.as_ref()?;
        Some((Arc::clone(&place.link), place.permit?))
    })
}

/// Called before a durable task that runs here ends without its code: that goes on and counts.
pub(crate) fn stay(this: &Task) {
    let Some((link, claim)) = durable::claim_of(this) else {
        return;
    };
    let permit = Permit::new();
    link.tell(|journal| journal.stay(claim, permit));
    keep_behind(this, TakenPermit { link, permit });
}

/// Keeps a permit for as long as the code of a task goes on after its end.
pub(crate) fn keep_behind(this: &Task, permit: TakenPermit) {
    let permit = Box::new(permit);
    policy::with(this, |rules| rules.permit_behind = Some(permit));
}
