//! Which tasks a task follows and which follow it, also once that is over, for a page.

use std::sync::Arc;

use pyo3::prelude::*;

use super::executor::Core;
use super::id::Id;
use super::task::{Task, name_of};

/// So many are remembered of a task, in each direction.
const MOST: usize = 20;

/// The tasks before and after one. Their ids and names alone: no task is kept by it.
#[derive(Default)]
pub(crate) struct Links {
    follows: Vec<(Id, String)>,
    followed: Vec<(Id, String)>,
}

/// Other tasks: their ids and names.
pub(crate) type Named = Vec<(String, String)>;

/// Notes that a task follows others, if there is a page.
pub(crate) fn note(this: &Bound<'_, Task>, before: &[Bound<'_, Task>], core: &Arc<Core>) {
    if core.samples().is_none() {
        return;
    }
    for first in before.iter().take(MOST) {
        add(this, first, |links| &mut links.follows);
        add(first, this, |links| &mut links.followed);
    }
}

fn add(
    of: &Bound<'_, Task>,
    other: &Bound<'_, Task>,
    list: impl FnOnce(&mut Links) -> &mut Vec<(Id, String)>,
) {
    let link = (other.get().quiet_id(), name_of(other));
    let mut extra = of.get().extra().lock();
    let list = list(extra.links.get_or_insert_default());
    if list.len() < MOST && list.iter().all(|it| it.0 != link.0) {
        list.push(link);
    }
}

/// The tasks that a task follows, and those that follow it.
pub(crate) fn of(this: &Task) -> (Named, Named) {
    let Some(extra) = this.known_extra() else {
        return <_>::default();
    };
    let extra = extra.lock();
    let named = |list: &[(Id, String)]| -> Named {
        let named = list.iter().map(|(id, name)| (id.to_string(), name.clone()));
        named.collect()
    };
    extra.links.as_ref().map_or_else(<_>::default, |links| {
        (named(&links.follows), named(&links.followed))
    })
}
