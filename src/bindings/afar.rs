//! Tasks that are neither in the queue nor with a worker: with the event loop, or waiting for
//! their time or their turn.

use std::collections::HashMap;

use flask_delay_engine::Hold;
use parking_lot::Mutex;
use pyo3::prelude::*;

use super::cell::FutureCell;
use super::core::Task;

/// Tasks of an executor, each of which holds its pool if that has threads. The lock is a leaf, and nothing is
/// dropped under it.
#[derive(Default)]
pub(crate) struct Afar(Mutex<HashMap<usize, Held>>);

type Held = (Py<FutureCell>, Option<Hold<Task>>);

impl Afar {
    pub(crate) fn add(&self, task: &Bound<'_, FutureCell>, hold: impl Into<Option<Hold<Task>>>) {
        let entry = (task.clone().unbind(), hold.into());
        let replaced = self.0.lock().insert(task.as_ptr() as usize, entry);
        drop(replaced);
    }

    /// It has ended, or has come to a place where the pool sees it.
    pub(crate) fn remove(&self, task: &Bound<'_, FutureCell>) {
        let entry = self.0.lock().remove(&(task.as_ptr() as usize));
        drop(entry);
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
            .map(|(task, _)| task.bind(py).clone())
            .collect()
    }
}
