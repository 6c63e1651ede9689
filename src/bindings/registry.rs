//! Futures by id: those whose id was asked for, all that run and the last that ended.

use std::collections::{HashMap, HashSet, VecDeque};

use flask_delay_engine::Mutex;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use uuid::Uuid;

use super::cell::FutureCell;
use super::ffi::object::references;
use super::policies::leftovers;
use super::settle::Phase;

#[derive(Default)]
struct Known {
    futures: HashMap<Uuid, Entry>,
    /// Ids of those that have ended, oldest first.
    ended: VecDeque<Uuid>,
    /// Ids of those that have been forgotten, oldest first, and the same to look into.
    gone: VecDeque<Uuid>,
    is_gone: HashSet<Uuid>,
    /// Ids of those that have failed and whose frames hold what they held then.
    whole: VecDeque<Uuid>,
}

/// So many ids of forgotten tasks are told from ids that never were.
const GONE: usize = 10_000;

struct Entry {
    future: Py<FutureCell>,
    ended: bool,
}

/// What `Executor._get` looks into. Its lock is a leaf, and nothing is dropped under it.
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

    /// Called once for each id.
    pub(crate) fn add(&self, id: Uuid, future: &Bound<'_, FutureCell>) {
        let entry = Entry {
            future: future.clone().unbind(),
            ended: false,
        };
        let replaced = self.known.lock().futures.insert(id, entry);
        debug_assert!(replaced.is_none(), "ids are unique");
    }

    /// The task with this id has ended: the oldest that has is forgotten, if they are too
    /// many. May be called twice.
    pub(crate) fn finished(&self, py: Python<'_>, id: Uuid) {
        let mut forgotten = Vec::new();
        {
            let known = &mut *self.known.lock();
            match known.futures.get_mut(&id) {
                Some(entry) if !entry.ended => {
                    entry.ended = true;
                    if entry.future.get().phase() == Phase::Failed {
                        known.whole.push_back(id);
                    }
                }
                _ => return,
            }
            known.ended.push_back(id);
            while known.ended.len() > self.limit {
                let Some(oldest) = known.ended.pop_front() else {
                    break;
                };
                forgotten.extend(known.futures.remove(&oldest));
                known.gone.push_back(oldest);
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

    /// Empties the frames of tasks that have failed before this one has ended, and that nobody
    /// else has: what they refer to may be much. Runs code of users, so not for the timer's
    /// thread.
    pub(crate) fn let_go_of_frames(&self, py: Python<'_>, last: Uuid) {
        // Two for each that is added, so that it comes to an end.
        for _ in 0..2 {
            let oldest = {
                let known = &mut *self.known.lock();
                if known.whole.front().is_none_or(|id| *id == last) {
                    return;
                }
                let id = known.whole.pop_front();
                id.and_then(|id| Some((id, known.futures.get(&id)?.future.clone_ref(py))))
            };
            let Some((id, future)) = oldest else {
                continue;
            };
            let future = future.into_bound(py);
            // The registry's, and this one.
            if references(&future) > 2 {
                self.known.lock().whole.push_back(id);
            } else if let Err(error) = future.get().let_go_of_frames(py) {
                error.write_unraisable(py, Some(&future));
            }
        }
    }

    pub(crate) fn get<'py>(&self, py: Python<'py>, id: Uuid) -> Option<Bound<'py, FutureCell>> {
        let known = self.known.lock();
        Some(known.futures.get(&id)?.future.bind(py).clone())
    }

    pub(crate) fn is_gone(&self, id: Uuid) -> bool {
        self.known.lock().is_gone.contains(&id)
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
