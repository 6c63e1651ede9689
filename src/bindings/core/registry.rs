//! Futures by id, once the id was requested: all that run, and the last that ended.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, HashSet, VecDeque};

use flask_delay_engine::{Mutex, Phase};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::id::Id;
use super::leftovers;
use super::task::Task;
use crate::bindings::ffi::object::references;

#[derive(Default)]
struct Known {
    futures: HashMap<Id, Entry>,
    /// Ids of ended tasks, oldest first.
    ended: VecDeque<Id>,
    /// Ids of forgotten tasks, oldest first, and the same as a set.
    gone: VecDeque<Id>,
    is_gone: HashSet<Id>,
    /// Ids of failed tasks with frames that are not cleared, oldest first.
    whole: VecDeque<Id>,
}

/// The most forgotten ids to keep, which tells them from unknown ids.
const GONE: usize = 10_000;

struct Entry {
    future: Py<Task>,
    ended: bool,
}

/// The tasks that `Executor._get` finds. The lock is a leaf, and nothing is dropped under it.
pub(crate) struct Registry {
    limit: usize,
    known: Mutex<Known>,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            known: Mutex::default(),
        }
    }

    /// Called once for each future; `false`, without a change, if another one has this id.
    pub(crate) fn add(&self, id: Id, future: &Bound<'_, Task>) -> bool {
        let known = &mut *self.known.lock();
        let Vacant(place) = known.futures.entry(id) else {
            return false;
        };
        known.is_gone.remove(place.key());
        place.insert(Entry {
            future: future.clone().unbind(),
            ended: false,
        });
        true
    }

    /// Forgets a future of a task that was not accepted.
    pub(crate) fn remove(&self, id: &Id, future: &Bound<'_, Task>) {
        let removed = {
            let known = &mut *self.known.lock();
            let is_it = known.futures.get(id).is_some_and(|it| it.future.is(future));
            is_it.then(|| known.futures.remove(id))
        };
        drop(removed);
    }

    /// Notes the end of the task with this id, and forgets the oldest ended tasks beyond the
    /// limit. May be called twice.
    pub(crate) fn finished(&self, py: Python<'_>, id: &Id) {
        let mut forgotten = Vec::new();
        {
            let known = &mut *self.known.lock();
            match known.futures.get_mut(id) {
                Some(entry) if !entry.ended => {
                    entry.ended = true;
                    if entry.future.get().phase() == Phase::Failed {
                        known.whole.push_back(id.clone());
                    }
                }
                _ => return,
            }
            known.ended.push_back(id.clone());
            while known.ended.len() > self.limit {
                let Some(oldest) = known.ended.pop_front() else {
                    break;
                };
                forgotten.extend(known.futures.remove(&oldest));
                known.gone.push_back(oldest.clone());
                known.is_gone.insert(oldest);
            }
            while known.whole.len() > self.limit {
                known.whole.pop_front();
            }
            while known.gone.len() > GONE {
                if let Some(oldest) = known.gone.pop_front() {
                    known.is_gone.remove(&oldest);
                }
            }
        }
        for entry in forgotten {
            leftovers::let_go(Some(entry.future.into_bound(py)));
        }
    }

    /// Clears the frames of earlier failed tasks that have no other reference: they may hold much
    /// memory. It runs user code, so the timer thread must not call it.
    pub(crate) fn let_go_of_frames(&self, py: Python<'_>, last: &Id) {
        // Two for each that is added, so that the list shrinks.
        for _ in 0..2 {
            let oldest = {
                let known = &mut *self.known.lock();
                if known.whole.front().is_none_or(|id| id == last) {
                    return;
                }
                let id = known.whole.pop_front();
                id.and_then(|id| {
                    let future = known.futures.get(&id)?.future.clone_ref(py);
                    Some((id, future))
                })
            };
            let Some((id, future)) = oldest else {
                continue;
            };
            let future = future.into_bound(py);
            // The registry's reference, and this one.
            if references(&future) > 2 {
                self.known.lock().whole.push_back(id);
            } else if let Err(error) = future.get().let_go_of_frames(py) {
                error.write_unraisable(py, Some(&future));
            }
        }
    }

    /// The future of the task with the id that is meant by `text`.
    pub(crate) fn get<'py>(&self, py: Python<'py>, text: &str) -> Option<Bound<'py, Task>> {
        let known = self.known.lock();
        let entry = Id::meant_by(text).find_map(|id| known.futures.get(&id))?;
        Some(entry.future.bind(py).clone())
    }

    pub(crate) fn is_gone(&self, text: &str) -> bool {
        let known = self.known.lock();
        Id::meant_by(text).any(|id| known.is_gone.contains(&id))
    }

    pub(crate) fn clear(&self) {
        let taken = std::mem::take(&mut *self.known.lock());
        drop(taken);
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held by another thread: not traversed this time, so nothing is freed too early.
        if let Some(known) = self.known.try_lock() {
            for entry in known.futures.values() {
                visit.call(&entry.future)?;
            }
        }
        Ok(())
    }
}
