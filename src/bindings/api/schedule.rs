//! `_Schedule`, the class by which `flask_delay.journal` takes the ticks of a job.

use std::ffi::CStr;
use std::sync::Arc;

use flask_delay_journal::{Accepted, Error, Journal as Store, NewTask, Run, Tick, Ticked, When};
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use super::journal::{self, Journal};
use super::periodic::Rhythm;
use crate::bindings::core::link::Link;
use crate::bindings::core::task::Task;
use crate::bindings::ffi::arguments::{self, Arguments, Before, CallMethod};
use crate::bindings::run::durable;

#[doc = doc!("_Schedule")]
#[pyclass(frozen, name = "_Schedule", module = "flask_delay._native")]
pub(crate) struct Schedule {
    link: Arc<Link>,
    /// The job at no tick.
    job: Tick,
}

/// The answer of `tick` and `submit`: whether this process runs the job, the task of the run, the
/// number of runs or of ticks that were left out, the process of the last run, the tick and the one
/// before. Ticks are in nanoseconds since 1970.
type Answer<'py> = (
    bool,
    Option<Bound<'py, Task>>,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

fn nanos(micros: Option<i64>) -> Option<i64> {
    micros.map(|micros| micros.saturating_mul(1_000))
}

fn answer(ticked: Ticked) -> Option<Answer<'static>> {
    match ticked {
        Ticked::Taken => None,
        Ticked::LeftOut { count, pid, .. } => Some((false, None, count, pid, None, None)),
        Ticked::Runs(Run {
            number, tick, last, ..
        }) => Some((true, None, number, None, nanos(tick), nanos(last))),
    }
}

impl Schedule {
    fn at(&self, at: Option<i64>, missed: bool, over: Option<i64>) -> Tick {
        let time = at.map(|nanos| nanos / 1_000);
        let when = match time {
            Some(time) if missed => When::Missed(time),
            Some(time) => When::At(time),
            None => When::Now,
        };
        Tick {
            when,
            over,
            ..self.job.clone()
        }
    }
}

#[pymethods]
impl Schedule {
    #[new]
    fn new(
        journal: &Bound<'_, Journal>,
        job: String,
        name: String,
        rhythm: &Bound<'_, Rhythm>,
        alone: bool,
    ) -> Self {
        Self {
            link: Arc::clone(journal.get().link()),
            job: Tick {
                job,
                name,
                recurrence: rhythm.get().beat().clone(),
                when: When::Now,
                is_alone: alone,
                over: None,
            },
        }
    }

    #[doc = doc!("_Schedule.is_taken")]
    #[pyo3(signature = (at, *, missed = false))]
    fn is_taken(&self, py: Python<'_>, at: i64, missed: bool) -> PyResult<bool> {
        let tick = self.at(Some(at), missed, None);
        self.link.ask(py, |journal| journal.is_taken(&tick))
    }

    #[doc = doc!("_Schedule.take")]
    #[pyo3(signature = (at, over))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        at: Option<i64>,
        over: Option<i64>,
    ) -> PyResult<Option<Answer<'py>>> {
        let tick = self.at(at, false, over);
        Ok(answer(
            self.link.ask(py, |journal| journal.tick(tick, None))?,
        ))
    }

    #[doc = doc!("_Schedule.over")]
    fn over(&self, number: i64) {
        self.link
            .tell(|journal| journal.run_is_over(&self.job.job, number));
    }

    #[doc = doc!("_Schedule.note")]
    fn note(&self) {
        let job = self.job.clone();
        self.link.tell(|journal| journal.note_job(job));
    }

    #[doc = doc!("_Schedule.pause")]
    fn pause(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        let job = self.job.clone();
        self.link.ask(py, |journal| journal.pause_job(job, paused))
    }

    #[doc = doc!("_Schedule.state")]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let found = self.link.ask(py, |journal| journal.job(&self.job.job))?;
        found.map(|job| journal::job(py, job)).transpose()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Tasks and the journal have the link, too.
        if Arc::strong_count(&self.link) == 1 {
            self.link.visit(&visit)?;
        }
        Ok(())
    }
}

struct Submit;

impl CallMethod for Submit {
    type Class = Schedule;

    const NAME: &CStr = c"submit";
    const DOC: &CStr = c_str!(concat!(
        "submit($self, at, missed, name, pool, policy, options, once, disk, executor, fn, /, *args, **kwargs)\n--\n\n",
        doc!("_Schedule.submit")
    ));
    const BEFORE: usize = 2 + journal::ORDER;
    const MISSING: &str = "submit() needs the function to run";

    fn call<'py>(
        this: &Bound<'py, Schedule>,
        before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let cell = this.get();
        let at = before.get(0).map(|at| at.extract()).transpose()?;
        let missed = before.get(1).map(|it| it.extract()).transpose()?;
        let tick = cell.at(at, missed.unwrap_or(false), None);
        let order = journal::order(before, 2)?;
        let mut run = None;
        let ask = |journal: &Store, row: NewTask| -> Result<_, Error> {
            Ok(match journal.tick(tick, Some(row))? {
                Ticked::Runs(made) => {
                    let accepted = made.accepted.clone().unwrap_or(Accepted::Waiting);
                    let tick = made.tick;
                    run = Some(made);
                    Ok((accepted, tick))
                }
                other => Err(other),
            })
        };
        let made = durable::submit_by(&cell.link, order, arguments, ask)?;
        let answer = match made {
            Err(ticked) => answer(ticked),
            Ok(task) => run.map(|run| {
                let tick = nanos(run.tick);
                (true, Some(task), run.number, None, tick, nanos(run.last))
            }),
        };
        Ok(answer.into_pyobject(py)?.into_any())
    }
}

/// Adds it to the class.
pub(crate) fn add(py: Python<'_>) -> PyResult<()> {
    arguments::add::<Submit>(py)
}
