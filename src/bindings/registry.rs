//! Futures by id: those whose id was asked for, all that run and the last that ended.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use uuid::Uuid;

use super::cell::FutureCell;
use super::policies::leftovers;

#[derive(Default)]
struct Known {
    futures: HashMap<Uuid, Entry>,
    /// Ids of those that have ended, oldest first.
    ended: VecDeque<Uuid>,
    /// Ids of those that have been forgotten, oldest first, and the same to look into.
    gone: VecDeque<Uuid>,
    is_gone: HashSet<Uuid>,
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
                Some(entry) if !entry.ended => entry.ended = true,
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
