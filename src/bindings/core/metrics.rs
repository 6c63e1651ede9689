//! What has become of an executor's tasks, by their names: how many ended how, how long they
//! waited and how long they ran.
//!
//! Counted for executors of a `Delay` alone, once per task, at its end; a plain executor's
//! tasks pay a look at one byte.

use std::collections::BTreeMap;

use flask_delay_engine::Mutex;
use hdrhistogram::Histogram;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyString};

use super::policy;
use super::task::FutureCell;
use super::task_name::read_name;
use super::transition::Phase;

/// Names that are made up, one for each task, must not fill the memory: those beyond so many
/// are counted as one. With two histograms of at most 15 kB for each name it is 6 MB at worst.
const NAMES: usize = 200;
const OTHERS: &str = "(others)";

/// Two significant digits are what a reader of such figures can use.
const DIGITS: u8 = 2;
/// In microseconds: a day. What took longer counts as that.
const LONGEST: u64 = 24 * 60 * 60 * 1_000_000;

/// Of one process. The lock is a leaf: under it nothing is dropped that Python knows, and no
/// Python code runs.
#[derive(Default)]
pub(crate) struct Figures(Mutex<Names>);

type Names = BTreeMap<Box<str>, OfName>;

#[derive(Clone, Default)]
struct OfName {
    counts: Counts,
    wait: Times,
    run: Times,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    done: u64,
    failed: u64,
    cancelled: u64,
    retried: u64,
}

/// A histogram in microseconds, made for the first of its times.
#[derive(Clone, Default)]
struct Times(Option<Histogram<u32>>);

/// In nanoseconds: from the submit, or the time before which it was not to start, to the first
/// start; and of the last attempt.
pub(crate) struct Spent {
    pub(crate) wait: u64,
    pub(crate) run: u64,
}

impl Spent {
    /// Of a task that has returned or failed, and has been started before.
    pub(crate) fn of(cell: &FutureCell) -> Option<Self> {
        if !matches!(cell.phase(), Phase::Finished | Phase::Failed) {
            return None;
        }
        // Relaxed: both were written before the phase, which was read with Acquire.
        let last = cell.last_start();
        if last == 0 {
            return None;
        }
        let first = policy::first_start(cell).unwrap_or(last);
        // Saturating: the system's clock may be set back meanwhile.
        Some(Self {
            wait: first.saturating_sub(policy::ready(cell).cast_unsigned()),
            run: cell.ended().saturating_sub(last),
        })
    }
}

/// Counts a task that has just ended. Its call has been taken, so that its name is at hand.
pub(crate) fn ended(this: &Bound<'_, FutureCell>) {
    let cell = this.get();
    // An errand is none of the user's tasks. A coroutine's task gets that mark later.
    let Some(figures) = cell.core().and_then(|core| core.figures()) else {
        return;
    };
    if cell.has_returned() {
        return;
    }
    let (phase, spent) = (cell.phase(), Spent::of(cell));
    figures.note(this, |it| {
        match phase {
            Phase::Finished => it.counts.done += 1,
            Phase::Failed => it.counts.failed += 1,
            _ => it.counts.cancelled += 1,
        }
        if let Some(spent) = spent {
            it.wait.record(spent.wait);
            it.run.record(spent.run);
        }
    });
}

/// Counts a task that is to run once more.
pub(crate) fn retried(this: &Bound<'_, FutureCell>) {
    if let Some(figures) = this.get().core().and_then(|core| core.figures()) {
        figures.note(this, |it| it.counts.retried += 1);
    }
}

impl Figures {
    fn note(&self, this: &Bound<'_, FutureCell>, step: impl FnOnce(&mut OfName)) {
        let py = this.py();
        let call = &this.get().call;
        let label = with_critical_section(this.as_any(), || call.function.get(py));
        let text = label
            .as_ref()
            .and_then(|label| label.cast::<PyString>().ok());
        // Most names lie in the label as they are; reading the others takes Python.
        match text.map(|text| text.to_str()) {
            Some(Ok(name)) => self.note_name(name, step),
            _ => self.note_name(&label.as_ref().map_or_else(String::new, read_name), step),
        }
    }

    fn note_name(&self, name: &str, step: impl FnOnce(&mut OfName)) {
        let mut names = self.0.lock();
        if let Some(it) = names.get_mut(name) {
            return step(it);
        }
        let name = if names.len() < NAMES { name } else { OTHERS };
        step(names.entry(name.into()).or_default());
    }

    /// Adds the figures to those of the pool.
    pub(crate) fn tell(&self, stats: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = stats.py();
        // A copy, so that no worker waits until it has been made Python objects.
        let names = self.0.lock().clone();
        let mut all = Counts::default();
        let tasks = PyDict::new(py);
        for (name, it) in &names {
            let task = PyDict::new(py);
            it.counts.tell(&task)?;
            task.set_item("wait", it.wait.to_dict(py)?)?;
            task.set_item("run", it.run.to_dict(py)?)?;
            tasks.set_item(&**name, task)?;
            all.done += it.counts.done;
            all.failed += it.counts.failed;
            all.cancelled += it.counts.cancelled;
            all.retried += it.counts.retried;
        }
        all.tell(stats)?;
        stats.set_item("tasks", tasks)
    }
}

impl Counts {
    fn tell(self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        dict.set_item("done", self.done)?;
        dict.set_item("failed", self.failed)?;
        dict.set_item("cancelled", self.cancelled)?;
        dict.set_item("retried", self.retried)
    }
}

impl Times {
    fn record(&mut self, nanoseconds: u64) {
        if self.0.is_none() {
            self.0 = Histogram::new(DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // It grows as far as to the longest.
            let _ = histogram.record((nanoseconds / 1_000).min(LONGEST));
        }
    }

    /// In seconds.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let histogram = self.0.as_ref();
        let count = histogram.map_or(0, Histogram::len);
        let mean = histogram.map_or(0.0, Histogram::mean);
        let [p50, p90, p99, max] = histogram.map_or([0; 4], |it| {
            [0.5, 0.9, 0.99, 1.0].map(|quantile| it.value_at_quantile(quantile))
        });
        let dict = PyDict::new(py);
        dict.set_item("count", count)?;
        dict.set_item("mean", mean / 1e6)?;
        for (key, microseconds) in [("p50", p50), ("p90", p90), ("p99", p99), ("max", max)] {
            dict.set_item(key, seconds(microseconds))?;
        }
        Ok(dict)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds are exact for two hundred years"
)]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// For Python: the seconds.
pub(crate) fn spent(cell: &FutureCell) -> Option<(f64, f64)> {
    Spent::of(cell).map(|it| (seconds(it.wait / 1_000), seconds(it.run / 1_000)))
}
