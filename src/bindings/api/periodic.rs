//! Periodic functions: a worker calls one at each tick of a recurrence.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Mutex, Recurrence as Beat, RecurrenceError, Ticket, Ticks, has_come};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::core::executor::{Core, ExecutorCell, Job};
use crate::bindings::errors::closed;
use crate::bindings::ffi::fork::generation;
use crate::bindings::ffi::slot::Slot;
use crate::bindings::process::exit;
use crate::bindings::sched::completion;
use crate::bindings::sched::dispatch::GLANCE;
use crate::bindings::sched::timer::{self, OfExecutor};

#[doc = doc!("_Rhythm")]
#[pyclass(frozen, name = "_Rhythm", module = "flask_delay._native")]
pub(crate) struct Rhythm(Beat);

impl Rhythm {
    pub(crate) fn beat(&self) -> &Beat {
        &self.0
    }
}

#[pymethods]
impl Rhythm {
    #[new]
    #[pyo3(signature = (*, every = None, cron = None, timezone = "UTC"))]
    fn new(every: Option<f64>, cron: Option<&str>, timezone: &str) -> PyResult<Self> {
        let beat = match (every, cron) {
            (Some(seconds), None) => Duration::try_from_secs_f64(seconds)
                .ok()
                .and_then(Beat::every)
                .ok_or_else(|| {
                    PyValueError::new_err(format!(
                        "the option 'every' is {seconds}, but must be a time above 0"
                    ))
                })?,
            (None, Some(line)) => Beat::cron(line, timezone).map_err(|error| match error {
                RecurrenceError::Line(why) => {
                    PyValueError::new_err(format!("the option 'cron' is {line:?}, but {why}"))
                }
                RecurrenceError::Zone(why) => PyValueError::new_err(format!(
                    "the option 'timezone' is {timezone:?}, but must be the name of a time zone \
                     ({why})"
                )),
            })?,
            _ => {
                return Err(PyValueError::new_err(
                    "give one of the options 'every' and 'cron'",
                ));
            }
        };
        Ok(Self(beat))
    }

    #[doc = doc!("_Rhythm.after")]
    fn after(&self, time: u64) -> Option<u64> {
        self.0.after(from_nanos(time)).and_then(to_nanos)
    }

    #[doc = doc!("_Rhythm.has_come")]
    fn has_come(&self, tick: u64, last: u64, now: u64) -> bool {
        let [tick, last, now] = [tick, last, now].map(from_nanos);
        has_come(&self.0, tick, last, now)
    }
}

fn from_nanos(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// `None` from the year 2554 on.
fn to_nanos(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

#[doc = doc!("_Ticker")]
#[pyclass(frozen, name = "_Ticker", module = "flask_delay._native")]
pub(crate) struct Ticker {
    /// Weak: when the executor goes, the ticks end.
    core: Weak<Core>,
    beat: Beat,
    /// Never emptied while the ticker is reachable.
    call: Slot,
    /// A leaf; only plain values are dropped under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Option<Run>,
}

/// From a start to a stop, in one process.
struct Run {
    generation: u32,
    ticks: Ticks,
    ticket: Option<Ticket>,
    /// The newest tick for which a job is queued that no worker has taken yet.
    asked: Option<u64>,
}

impl Run {
    /// When to check the ticks: at the next one, or earlier, in case the clock is set.
    fn next_look(&self, now: SystemTime) -> Option<Instant> {
        let left = self.ticks.due()?.duration_since(now).unwrap_or_default();
        Instant::now().checked_add(left.min(GLANCE))
    }
}

#[pymethods]
impl Ticker {
    #[new]
    fn new(
        executor: &Bound<'_, ExecutorCell>,
        rhythm: &Bound<'_, Rhythm>,
        call: Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        Ok(Self {
            core: Arc::downgrade(executor.get().core()?),
            beat: rhythm.get().0.clone(),
            call: Slot::new(call),
            state: Mutex::default(),
        })
    }

    #[doc = doc!("_Ticker.start")]
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.over() {
            return Err(closed());
        }
        let now = SystemTime::now();
        let run = Run {
            generation: generation(),
            ticks: Ticks::new(this.beat.clone(), now),
            ticket: None,
            asked: None,
        };
        let look = run.next_look(now);
        let before = this.state.lock().run.replace(run);
        unset(slf.py(), before);
        set(slf, look)
    }

    #[doc = doc!("_Ticker.stop")]
    fn stop(&self, py: Python<'_>) {
        let run = self.state.lock().run.take();
        unset(py, run);
    }

    #[doc = doc!("_Ticker.over")]
    #[getter]
    fn over(&self) -> bool {
        let core = self.core.upgrade();
        core.is_none_or(|core| core.pool().is_closed())
    }

    #[doc = doc!("_Ticker.next")]
    #[getter]
    fn next(&self) -> Option<u64> {
        let state = self.state.lock();
        to_nanos(state.run.as_ref()?.ticks.due()?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.call.visit(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        // The ticker is unreachable now.
        drop(self.call.take(py));
    }
}

fn unset(py: Python<'_>, run: Option<Run>) {
    // A ticket of another process is not valid for this one's timer.
    let run = run.filter(|run| run.generation == generation());
    if let Some(ticket) = run.and_then(|run| run.ticket) {
        timer::unset(py, ticket);
    }
}

fn set(this: &Bound<'_, Ticker>, look: Option<Instant>) -> PyResult<()> {
    let Some(look) = look else {
        return Ok(());
    };
    let ticket = timer::set(look, this, ring)?;
    let stopped = match &mut this.get().state.lock().run {
        Some(run) => {
            run.ticket = Some(ticket);
            false
        }
        None => true,
    };
    if stopped {
        // The thread that stopped it has not seen the timer.
        timer::unset(this.py(), ticket);
    }
    Ok(())
}

impl OfExecutor for Ticker {
    fn executor(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }
}

/// Checks whether a tick is due.
pub(crate) fn ring(this: &Bound<'_, Ticker>) {
    let py = this.py();
    let ticker = this.get();
    let core = ticker.core.upgrade();
    let Some(core) = core.filter(|core| !core.pool().is_closed()) else {
        ticker.state.lock().run = None;
        return;
    };
    if exit::has_begun() {
        return;
    }
    let now = SystemTime::now();
    let (send, look) = {
        let mut state = ticker.state.lock();
        let Some(run) = &mut state.run else {
            return;
        };
        let tick = run.ticks.take(now).and_then(to_nanos);
        // Missed ticks count as one: the queued job takes the last.
        let send = tick.is_some() && run.asked.is_none();
        run.asked = tick.or(run.asked);
        (send, run.next_look(now))
    };
    let rung = set(this, look).and_then(|()| if send { call(this, &core) } else { Ok(()) });
    if let Err(error) = rung {
        if send {
            take_asked(ticker);
        }
        error.write_unraisable(py, Some(this.as_any()));
    }
}

/// Queues the call of the function at a tick.
fn call(this: &Bound<'_, Ticker>, core: &Arc<Core>) -> PyResult<()> {
    let ticker = this.clone().unbind();
    let tick = PyCFunction::new_closure(this.py(), Some(c"tick"), None, move |args, _| {
        let ticker = ticker.bind(args.py()).get();
        match take_asked(ticker) {
            Some(tick) => match ticker.call.get(args.py()) {
                Some(call) => call.call1((tick,)).map(drop),
                None => Ok(()),
            },
            // The ticker was stopped.
            None => Ok(()),
        }
    })?;
    completion::give_worker(this.py(), core, Job::Tick(tick.into_any().unbind()));
    Ok(())
}

fn take_asked(ticker: &Ticker) -> Option<u64> {
    ticker.state.lock().run.as_mut()?.asked.take()
}
