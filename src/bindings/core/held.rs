//! Tasks that are neither in the queue nor with a worker: with the event loop, or waiting for
//! their time or their turn.

use std::collections::HashMap;
use std::sync::Arc;

use flask_delay_engine::{Hold, Mutex};
use pyo3::prelude::*;

use super::executor::Job;
use super::task::FutureCell;
use super::waiter::Bell;

/// Tasks of an executor, each of which holds its pool if that has threads. The lock is a leaf,
/// and nothing is dropped under it.
#[derive(Default)]
pub(crate) struct Afar(Mutex<HashMap<usize, Held>>);

struct Held {
    task: Py<FutureCell>,
    hold: Option<Hold<Job>>,
    /// Of those who wait until the task is not here any more.
    bells: Vec<Arc<Bell>>,
}

impl Afar {
    pub(crate) fn add(&self, task: &Bound<'_, FutureCell>, hold: impl Into<Option<Hold<Job>>>) {
        let entry = Held {
            task: task.clone().unbind(),
            hold: hold.into(),
            bells: Vec::new(),
        };
        let mut tasks = self.0.lock();
        let mut replaced = tasks.insert(task.as_ptr() as usize, entry);
        if let Some(before) = &mut replaced
            && let Some(entry) = tasks.get_mut(&(task.as_ptr() as usize))
        {
            entry.bells.append(&mut before.bells);
        }
        drop(tasks);
        drop(replaced);
    }

    /// It has ended, or has come to a place where the pool sees it.
    pub(crate) fn remove(&self, task: &Bound<'_, FutureCell>) {
        let entry = self.0.lock().remove(&(task.as_ptr() as usize));
        let Some(Held { task, hold, bells }) = entry else {
            return;
        };
        // Whoever is told finds that the pool is not held any more.
        drop((task, hold));
        for bell in bells {
            bell.ring();
        }
    }

    /// What rings when the task is not here any more; None if it is not now.
    pub(crate) fn bell(&self, task: &Bound<'_, FutureCell>) -> Option<Arc<Bell>> {
        let bell = Bell::new();
        let mut tasks = self.0.lock();
        let entry = tasks.get_mut(&(task.as_ptr() as usize))?;
        entry.bells.push(Arc::clone(&bell));
        Some(bell)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub(crate) fn tasks<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, FutureCell>> {
        let tasks = self.0.lock();
        tasks
            .values()
            .map(|held| held.task.bind(py).clone())
            .collect()
    }
}
