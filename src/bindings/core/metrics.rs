//! Figures of an executor's tasks, by name: how they ended, how long they waited and how long they
//! ran.
//!
//! Only executors of a `Delay` count, once per task, at its end; a plain executor's tasks pay for
//! a load of one byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flask_delay_engine::{Mutex, Phase};
use flask_delay_journal::{Figures, Histogram};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyString};

use super::executor::Core;
use super::function_name::read_name;
use super::policy;
use super::task::Task;

/// Generated names, one for each task, must not fill the memory: further names share one entry.
/// Two histograms of at most 16 kB for each name make 6 MB at worst.
const NAMES: usize = 200;
const OTHERS: &str = "(others)";

/// The figures of one process. The lock is a leaf: under it no Python object is dropped, and no
/// Python code runs.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<Names>);

/// By name.
pub(crate) type Names = BTreeMap<Box<str>, OfName>;

/// The figures of the tasks of a name.
#[derive(Clone, Default)]
pub(crate) struct OfName {
    pub(crate) counts: Counts,
    pub(crate) wait: Histogram,
    pub(crate) run: Histogram,
}

/// How tasks went on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
}

/// Nanoseconds: from submission, or the earliest start, to the first start; of the last attempt.
pub(crate) struct Spent {
    pub(crate) wait: u64,
    pub(crate) run: u64,
}

impl Spent {
    /// None unless the task was started, and has returned or failed.
    pub(crate) fn of(cell: &Task) -> Option<Self> {
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

/// Counts a task that has just ended. Its call was taken, so that its name is at hand.
pub(crate) fn ended(this: &Bound<'_, Task>) {
    let cell = this.get();
    let Some(figures) = cell.core().and_then(|core| core.figures()) else {
        return;
    };
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

/// Counts a task that will run again.
pub(crate) fn retried(this: &Bound<'_, Task>) {
    if let Some(figures) = this.get().core().and_then(|core| core.figures()) {
        figures.note(this, |it| it.counts.retried += 1);
    }
}

/// Counts a task that has become a dead letter by what this process has found.
pub(crate) fn died(core: &Arc<Core>, name: &str) {
    if let Some(figures) = core.figures() {
        figures.note_name(name, |it| it.counts.dead += 1);
    }
}

impl Metrics {
    fn note(&self, this: &Bound<'_, Task>, step: impl FnOnce(&mut OfName)) {
        let py = this.py();
        let call = &this.get().call;
        let label = with_critical_section(this.as_any(), || call.function.get(py));
        let text = label
            .as_ref()
            .and_then(|label| label.cast::<PyString>().ok());
        // Most labels are the name itself; reading others calls Python.
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

    /// Reads each name under the lock, one at a time, so that no worker waits for all of them.
    fn each<T>(&self, read: impl Fn(&OfName) -> T) -> Vec<(Box<str>, T)> {
        let names: Vec<_> = self.0.lock().keys().cloned().collect();
        let read = |name: Box<str>| {
            // Names are never removed.
            let it = self.0.lock().get(&name).map(&read)?;
            Some((name, it))
        };
        names.into_iter().filter_map(read).collect()
    }

    /// Tells what has come since `seen`, by name, and brings that up to date.
    pub(crate) fn since(&self, seen: &mut Names, mut tell: impl FnMut(&str, &OfName)) {
        let names: Vec<_> = self.0.lock().keys().cloned().collect();
        for name in names {
            let before = seen.entry(name.clone()).or_default();
            // One at a time, as in `each`.
            let now = {
                let names = self.0.lock();
                let now = names.get(&name).filter(|now| now.counts != before.counts);
                now.cloned()
            };
            if let Some(now) = now {
                let mut new = now.clone();
                new.subtract(before);
                *before = now;
                tell(&name, &new);
            }
        }
    }

    /// One row for each name, for an exporter: the numbers of done, failed, cancelled, retried and dead
    /// tasks, then the waits, then the runs. Both have the sum in seconds, the number above the
    /// previous bound and up to each bound (in seconds), and the number above all bounds.
    pub(crate) fn export<'py>(
        &self,
        py: Python<'py>,
        bounds: &[f64],
    ) -> PyResult<Bound<'py, PyDict>> {
        let bounds = microseconds(bounds);
        let rows = PyDict::new(py);
        for (name, row) in self.each(|it| it.row(&bounds)) {
            rows.set_item(&*name, row)?;
        }
        Ok(rows)
    }

    /// Adds the figures to those of the pool.
    pub(crate) fn tell(&self, stats: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = stats.py();
        let mut all = Counts::default();
        let tasks = PyDict::new(py);
        let read = |it: &OfName| (it.counts, quantiles(&it.wait), quantiles(&it.run));
        for (name, (counts, wait, run)) in self.each(read) {
            let task = PyDict::new(py);
            counts.tell(&task)?;
            task.set_item("wait", wait.to_dict(py)?)?;
            task.set_item("run", run.to_dict(py)?)?;
            tasks.set_item(&*name, task)?;
            all.done += counts.done;
            all.failed += counts.failed;
            all.cancelled += counts.cancelled;
            all.retried += counts.retried;
            all.dead += counts.dead;
        }
        all.tell(stats)?;
        stats.set_item("tasks", tasks)
    }
}

impl OfName {
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.add(other.counts);
        self.wait.add(&other.wait);
        self.run.add(&other.run);
    }

    /// As the journal adds them to those of other processes.
    pub(crate) fn into_figures(self) -> Figures {
        Figures {
            done: self.counts.done,
            failed: self.counts.failed,
            cancelled: self.counts.cancelled,
            retried: self.counts.retried,
            dead: self.counts.dead,
            wait: self.wait,
            run: self.run,
        }
    }

    fn subtract(&mut self, earlier: &Self) {
        let (counts, before) = (&mut self.counts, &earlier.counts);
        counts.done -= before.done;
        counts.failed -= before.failed;
        counts.cancelled -= before.cancelled;
        counts.retried -= before.retried;
        counts.dead -= before.dead;
        self.wait.subtract(&earlier.wait);
        self.run.subtract(&earlier.run);
    }

    fn row(&self, bounds: &[u64]) -> Vec<f64> {
        let counts = self.counts;
        let mut row = vec![
            float(counts.done),
            float(counts.failed),
            float(counts.cancelled),
            float(counts.retried),
            float(counts.dead),
        ];
        for times in [&self.wait, &self.run] {
            row.push(seconds(times.sum()));
            row.extend(times.within(bounds).into_iter().map(float));
        }
        row
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retried += other.retried;
        self.dead += other.dead;
    }

    /// How many tasks have ended.
    pub(crate) fn ended(self) -> u64 {
        self.done + self.failed + self.cancelled + self.dead
    }

    fn tell(self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        dict.set_item("done", self.done)?;
        dict.set_item("failed", self.failed)?;
        dict.set_item("cancelled", self.cancelled)?;
        dict.set_item("retried", self.retried)?;
        dict.set_item("dead", self.dead)
    }
}

/// The figures of a function as a dict, with counts of its waits and runs up to each bound, in
/// seconds.
pub(crate) fn to_dict<'py>(
    py: Python<'py>,
    figures: &Figures,
    bounds: &[f64],
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counts = Counts {
        done: figures.done,
        failed: figures.failed,
        cancelled: figures.cancelled,
        retried: figures.retried,
        dead: figures.dead,
    };
    counts.tell(&dict)?;
    dict.set_item("wait", quantiles(&figures.wait).to_dict(py)?)?;
    dict.set_item("run", quantiles(&figures.run).to_dict(py)?)?;
    let bounds = microseconds(bounds);
    let buckets = (figures.wait.within(&bounds), figures.run.within(&bounds));
    dict.set_item("buckets", buckets)?;
    Ok(dict)
}

fn microseconds(bounds: &[f64]) -> Vec<u64> {
    bounds
        .iter()
        .map(|bound| Duration::try_from_secs_f64(*bound).unwrap_or(Duration::MAX))
        .map(|bound| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX))
        .collect()
}

/// The median and the time that 95 % took at most, in seconds; None without any.
pub(crate) fn typical(times: &Histogram) -> Option<[f64; 2]> {
    (times.count() > 0).then(|| times.longest([50, 95]).map(seconds))
}

fn quantiles(times: &Histogram) -> Quantiles {
    Quantiles {
        count: times.count(),
        sum: times.sum(),
        times: times.longest([50, 90, 99, 100]),
    }
}

/// The summary of a histogram for `stats()`.
struct Quantiles {
    count: u64,
    sum: u64,
    times: [u64; 4],
}

impl Quantiles {
    /// In seconds.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("count", self.count)?;
        dict.set_item("mean", seconds(self.sum) / float(self.count.max(1)))?;
        for (key, time) in ["p50", "p90", "p99", "max"].into_iter().zip(self.times) {
            dict.set_item(key, seconds(time))?;
        }
        Ok(dict)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds are exact for two hundred years"
)]
fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) fn seconds(microseconds: u64) -> f64 {
    float(microseconds) / 1e6
}
