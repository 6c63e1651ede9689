//! Tasks that are neither in the queue nor on a worker: on the event loop, or waiting for their
//! start or a limiter.

use std::collections::HashMap;
use std::sync::Arc;

use flask_delay_engine::{Hold, Mutex, Phase};
use pyo3::prelude::*;

use super::executor::Queued;
use super::task::Task;
use super::waiter::Waiter;

/// Held tasks of an executor; each holds its pool, if that has threads. The lock is a leaf, and
/// nothing is dropped under it.
#[derive(Default)]
pub(crate) struct HeldTasks(Mutex<HashMap<usize, Held>>);

struct Held {
    task: Py<Task>,
    hold: Option<Hold<Queued>>,
    /// Threads that wait until the task is removed.
    waiters: Vec<Arc<Waiter>>,
}

impl HeldTasks {
    pub(crate) fn add(&self, task: &Bound<'_, Task>, hold: impl Into<Option<Hold<Queued>>>) {
        let entry = Held {
            task: task.clone().unbind(),
            hold: hold.into(),
            waiters: Vec::new(),
        };
        let mut tasks = self.0.lock();
        let mut replaced = tasks.insert(task.as_ptr() as usize, entry);
        if let Some(before) = &mut replaced
            && let Some(entry) = tasks.get_mut(&(task.as_ptr() as usize))
        {
            entry.waiters.append(&mut before.waiters);
        }
        drop(tasks);
        drop(replaced);
    }

    /// Called when the task has ended, or is where the pool sees it.
    pub(crate) fn remove(&self, task: &Bound<'_, Task>) {
        let entry = self.0.lock().remove(&(task.as_ptr() as usize));
        let Some(Held {
            task,
            hold,
            waiters,
        }) = entry
        else {
            return;
        };
        // Before the wake-ups: a woken thread must find the pool released.
        drop((task, hold));
        for waiter in waiters {
            waiter.ring();
        }
    }

    /// A waiter that is rung when the task is removed; None if it is not here.
    pub(crate) fn waiter(&self, task: &Bound<'_, Task>) -> Option<Arc<Waiter>> {
        let waiter = Waiter::new();
        let mut tasks = self.0.lock();
        let entry = tasks.get_mut(&(task.as_ptr() as usize))?;
        entry.waiters.push(Arc::clone(&waiter));
        Some(waiter)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Forgets all tasks.
    pub(crate) fn clear(&self) {
        let taken = std::mem::take(&mut *self.0.lock());
        drop(taken);
    }

    /// Up to `most` of the tasks that have not started, those that were submitted first.
    pub(crate) fn oldest<'py>(&self, py: Python<'py>, most: usize) -> Vec<Bound<'py, Task>> {
        let tasks = self.0.lock();
        let mut found: Vec<_> = (tasks.values())
            .map(|held| &held.task)
            .filter(|task| task.get().phase() == Phase::Pending)
            .map(|task| (task.get().born(), task))
            .collect();
        if found.len() > most {
            found.select_nth_unstable_by_key(most, |(born, _)| *born);
            found.truncate(most);
        }
        let tasks = found.into_iter();
        tasks.map(|(_, task)| task.bind(py).clone()).collect()
    }

    pub(crate) fn tasks<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, Task>> {
        let tasks = self.0.lock();
        tasks
            .values()
            .map(|held| held.task.bind(py).clone())
            .collect()
    }
}
