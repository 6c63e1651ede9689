//! The settings of executors, and their defaults.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flask_delay_engine::Config;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::events::Signals;
use super::stream::Bounds;
use super::waiter::look_on;

const MEBIBYTE: usize = 1 << 20;
/// As on Linux for a main thread; deep recursion must not depend on the thread.
const STACK: usize = 8 * MEBIBYTE;

/// The default switch interval while a task computes. At this value the switches themselves cost
/// about a tenth of the time.
const SWITCH_INTERVAL: Duration = Duration::from_micros(100);

/// The default of Python's own pool: a few more threads than processors.
fn default_workers(py: Python<'_>) -> PyResult<usize> {
    let os = py.import("os")?;
    // The newer function respects the affinity and `-X cpu_count`.
    let count = match os.getattr_opt("process_cpu_count")? {
        Some(count) => count,
        None => os.getattr("cpu_count")?,
    };
    let processors: Option<usize> = count.call0()?.extract()?;
    Ok(32.min(processors.unwrap_or(1) + 4))
}

/// A number of workers; one that is too large is a `ValueError` like other bad values.
pub(crate) fn max_workers(count: &Bound<'_, PyAny>) -> PyResult<i64> {
    count.extract().or_else(|error: PyErr| {
        if !error.is_instance_of::<PyOverflowError>(count.py()) {
            return Err(error);
        }
        Err(PyValueError::new_err(format!(
            "max_workers is out of range, got {}",
            count.repr()?
        )))
    })
}

/// A queue size; 0 for no limit.
pub(crate) fn queue_size(size: &Bound<'_, PyAny>) -> PyResult<usize> {
    let bad = |error: PyErr| {
        if error.is_instance_of::<PyTypeError>(size.py()) {
            return error;
        }
        PyValueError::new_err(format!(
            "queue_size must be an integer, 0 or more, got {}",
            size.repr()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string())
        ))
    };
    size.extract().map_err(bad)
}

fn config(
    py: Python<'_>,
    max_workers: Option<i64>,
    prefix: &str,
    idle_timeout: Duration,
) -> PyResult<Config> {
    static UNNAMED: AtomicUsize = AtomicUsize::new(0);
    let max_workers = match max_workers {
        None => default_workers(py)?,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                PyValueError::new_err(format!("max_workers must be greater than 0, got {count}"))
            })?,
    };
    if prefix.contains('\0') {
        return Err(PyValueError::new_err(format!(
            "thread_name_prefix must not contain a null character, got {prefix:?}"
        )));
    }
    let name = if prefix.is_empty() {
        format!("delay-{}", UNNAMED.fetch_add(1, Ordering::Relaxed))
    } else {
        prefix.to_owned()
    };
    let asked: usize = py
        .import("threading")?
        .call_method0("stack_size")?
        .extract()?;
    Ok(Config {
        name,
        max_workers,
        idle_timeout,
        spin: look_on(),
        stack_size: asked.max(STACK),
    })
}

/// How long a submission waits for a permit of the queue, in seconds; None for no limit.
pub(crate) fn block_timeout(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    match seconds {
        Some(seconds) if seconds < 0.0 || seconds.is_nan() => Err(PyValueError::new_err(format!(
            "block_timeout must be a number of seconds, 0 or more, or None, got {seconds}"
        ))),
        _ => Ok(duration(seconds)),
    }
}

/// None: no limit.
fn duration(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// The function that each worker calls first, and its arguments.
pub(crate) type Initializer = (Py<PyAny>, Py<PyTuple>);

pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) initializer: Option<Initializer>,
    /// Context variables that are not carried to tasks.
    pub(crate) hidden: Vec<Py<PyAny>>,
    pub(crate) log_failures: bool,
    /// How long tasks may run at exit.
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) result_limit: usize,
    /// The switch interval while a task computes; `None`: unchanged.
    pub(crate) switch_interval: Option<Duration>,
    /// Serves other executors: not drained, and closed last.
    pub(crate) service: bool,
    pub(crate) mode: Mode,
    pub(crate) signals: Option<Signals>,
    pub(crate) backpressure: Backpressure,
    /// Whether its tasks are counted by name.
    pub(crate) counted: bool,
    pub(crate) beginning: Beginning,
    /// What is kept of the items of a generator task.
    pub(crate) stream: Bounds,
    /// The method that makes app contexts, if a future's `scope` is the owner of one.
    pub(crate) scope_method: Option<Py<PyString>>,
}

impl Settings {
    /// The settings of a plain executor.
    pub(crate) fn new(
        py: Python<'_>,
        max_workers: Option<i64>,
        prefix: &str,
        idle_timeout: Duration,
    ) -> PyResult<Self> {
        Ok(Self {
            config: config(py, max_workers, prefix, idle_timeout)?,
            initializer: None,
            hidden: Vec::new(),
            log_failures: true,
            shutdown_timeout: None,
            result_limit: 0,
            switch_interval: Some(SWITCH_INTERVAL),
            service: false,
            mode: Mode::Threads,
            signals: None,
            backpressure: Backpressure::default(),
            counted: false,
            beginning: Beginning::Call,
            stream: Bounds::default(),
            scope_method: None,
        })
    }

    /// Sets one setting by its name in Python.
    pub(crate) fn set(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match name {
            "hidden" => {
                let hidden = value
                    .try_iter()?
                    .map(|variable| variable.map(Bound::unbind));
                self.hidden = hidden.collect::<PyResult<_>>()?;
            }
            "log_failures" => self.log_failures = value.extract()?,
            "shutdown_timeout" => self.shutdown_timeout = duration(value.extract()?),
            "result_limit" => self.result_limit = value.extract()?,
            "switch_interval" => self.switch_interval = duration(value.extract()?),
            "mode" => self.mode = Mode::parse(value.extract()?)?,
            "queue_size" => self.backpressure.queue_size = queue_size(value)?,
            "when_full" => self.backpressure.when_full = WhenFull::parse(value.extract()?)?,
            "block_timeout" => {
                self.backpressure.block_timeout = block_timeout(value.extract()?)?;
            }
            "stream_items" => self.stream.items = value.extract()?,
            "stream_bytes" => self.stream.bytes = value.extract()?,
            "late_start" if value.is_truthy()? => self.beginning = Beginning::Told,
            "late_start" => {}
            _ => {
                let told = format!("an executor has no setting {name:?}");
                return Err(PyTypeError::new_err(told));
            }
        }
        Ok(())
    }
}

/// Where an executor's tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Threads,
    /// The submitting thread runs its task inline.
    Immediate,
    /// Tasks wait for `run_pending`.
    Manual,
}

impl Mode {
    pub(crate) fn parse(mode: &str) -> PyResult<Self> {
        match mode {
            "threads" => Ok(Self::Threads),
            "immediate" => Ok(Self::Immediate),
            "manual" => Ok(Self::Manual),
            _ => Err(PyValueError::new_err(format!(
                "mode must be \"threads\", \"immediate\" or \"manual\", got {mode:?}"
            ))),
        }
    }
}

/// The reaction to a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Block,
    Raise,
    CallerRuns,
    DropOldest,
}

impl WhenFull {
    pub(crate) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "block" => Ok(Self::Block),
            "raise" => Ok(Self::Raise),
            "caller_runs" => Ok(Self::CallerRuns),
            "drop_oldest" => Ok(Self::DropOldest),
            _ => Err(PyValueError::new_err(format!(
                "when_full must be \"block\", \"raise\", \"caller_runs\" or \"drop_oldest\", got \
                 {name:?}"
            ))),
        }
    }
}

/// The settings of an executor's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backpressure {
    /// Zero: no limit.
    pub(crate) queue_size: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) block_timeout: Option<Duration>,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self {
            queue_size: 0,
            when_full: WhenFull::Block,
            block_timeout: None,
        }
    }
}

/// When a task's timeout starts to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// At the call of its function.
    Call,
    /// When the function says so: see `run::timeout::begin`.
    Told,
}
