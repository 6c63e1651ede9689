//! The process's life: interpreter exit, and the children that a task forks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use flask_delay_engine::{LazyPerProcess, Mutex, Worker};
use flask_delay_journal::Journal;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use crate::bindings::core::durable;
use crate::bindings::core::executor::{Core, Job, Queued};
use crate::bindings::core::link;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::stream;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::core::transition::Phase;
use crate::bindings::ffi::cpython::register_atexit;
use crate::bindings::ffi::gil::{SIGNALS, wait_with_signals};
use crate::bindings::host::logging;
use crate::bindings::host::switch_interval;
use crate::bindings::run::durable::put_back;
use crate::bindings::run::worker;
use crate::bindings::sched::completion::cancel;
use crate::bindings::sched::dispatch;
use crate::bindings::sched::timer;

/// Every executor that has a pool in this process. The lock is a leaf.
static CORES: LazyPerProcess<Mutex<Cores>> = LazyPerProcess::new();

#[derive(Default)]
struct Cores {
    all: Vec<Weak<Core>>,
    /// All are closed for good. Under the lock, so that no executor is made between the last look
    /// at them and this.
    exited: bool,
}

/// How long tasks that were told to stop have to notice it.
const GRACE: Duration = Duration::from_millis(200);

/// Adds an executor to drain when this process exits.
pub(crate) fn add(core: &Arc<Core>) {
    let exited = {
        let mut cores = CORES.get_or_init(Mutex::default).lock();
        cores.all.retain(|core| core.strong_count() > 0);
        cores.all.push(Arc::downgrade(core));
        cores.exited
    };
    if exited {
        // No thread would wait for its tasks.
        core.close();
    }
}

fn cores() -> Vec<Arc<Core>> {
    let cores = CORES.get_or_init(Mutex::default).lock();
    cores.all.iter().filter_map(Weak::upgrade).collect()
}

/// Registers the exit hooks; called once, when the module is loaded.
///
/// `threading`'s hook runs first, while threads can still be used freely: it waits for the tasks,
/// including those that tasks submit. `atexit` runs after the last other thread has ended. Before
/// any other function there, the pools are closed and their threads joined, and the service pools
/// last.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    // The hook of `ThreadPoolExecutor` must be registered first, so that it runs after ours: our
    // tasks may still use such an executor.
    py.import("concurrent.futures.thread")?;
    let close = PyCFunction::new_closure(py, Some(c"_close_at_exit"), None, |args, _| {
        close_at_exit(args.py());
    })?;
    let register = py.import("atexit")?.getattr("register")?;
    register.call1((close,))?;
    let refuse = PyCFunction::new_closure(py, Some(c"_refuse_at_exit"), None, |args, _| {
        let py = args.py();
        let lost = close_pools(py);
        report(py, &lost);
    })?;
    let (register, refuse) = (register.unbind(), refuse.unbind());
    let drain = PyCFunction::new_closure(py, Some(c"_drain_at_exit"), None, move |args, _| {
        let py = args.py();
        // Relaxed: read by signal handlers, which run on this thread, the main one.
        EXITING.store(true, Ordering::Relaxed);
        drain_at_exit(py);
        // Registered last and so called first: before functions that would submit tasks for which
        // no thread waits.
        register.call1(py, (&refuse,)).map(drop)
    })?;
    register_atexit(drain)?;
    let forked = PyCFunction::new_closure(py, Some(c"_after_fork"), None, |args, _| {
        switch_interval::restore_after_fork(args.py());
    })?;
    let hooks = PyDict::new(py);
    hooks.set_item("after_in_child", forked)?;
    py.import("os")?
        .call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}

/// The interpreter has begun to exit.
static EXITING: AtomicBool = AtomicBool::new(false);

#[doc = doc!("_is_exiting")]
#[pyfunction]
pub(crate) fn _is_exiting() -> bool {
    EXITING.load(Ordering::Relaxed)
}

/// The process ends, and periodic tasks start no more.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Whether the process has begun to end.
pub(crate) fn has_begun() -> bool {
    BEGUN.load(Ordering::Relaxed)
}

/// When the interpreter began to exit: one deadline for all that follows.
fn exit_began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

/// Signal handlers may raise during exit. Only Ctrl-C means "do not wait"; other exceptions are
/// printed, except `SystemExit`: an exit is under way already.
fn ignore_exit(py: Python<'_>, waited: PyResult<bool>) {
    if let Err(error) = waited
        && !error.is_instance_of::<PySystemExit>(py)
    {
        error.write_unraisable(py, None);
    }
}

/// Waits for the threads of a closed pool to end; `false` on timeout or Ctrl-C.
fn join_at_exit(py: Python<'_>, core: &Arc<Core>) -> bool {
    let deadline = deadline_of(core, exit_began());
    loop {
        match wait_with_signals(py, deadline, |slice| core.pool().join(Some(slice))) {
            Ok(joined) => return joined,
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return false,
            error => ignore_exit(py, error),
        }
    }
}

fn drain_at_exit(py: Python<'_>) {
    // Before draining: periodic tasks would keep a pool busy without limit. Relaxed: a tick that
    // comes meanwhile is one that came before.
    BEGUN.store(true, Ordering::Relaxed);
    // What waits in a journal belongs to the next process.
    for link in link::links() {
        link.tell(Journal::stop_claiming);
    }
    let lost = drain_all(py);
    report(py, &lost);
}

/// Lets all accepted tasks end, including those that tasks submit. Returns the names of the tasks
/// that ran out of time.
fn drain_all(py: Python<'_>) -> Vec<String> {
    let start = exit_began();
    let mut lost = Vec::new();
    let mut impatient = false;
    let mut quiet_before = false;
    loop {
        let now = Instant::now();
        let mut busy = None;
        for core in cores() {
            if core.service || core.is_given_up() || core.pool().wait_quiet(Some(now)) {
                continue;
            }
            let deadline = deadline_of(&core, start);
            if let Some(deadline) = deadline {
                give_up_late(py, &core, deadline, &mut lost);
            }
            // No thread runs the tasks of a manual executor.
            let hopeless = core.mode == Mode::Manual;
            if hopeless || impatient || deadline.is_some_and(|deadline| now >= deadline) {
                give_up(py, &core, &mut lost);
            } else {
                busy = Some(core);
            }
        }
        let Some(core) = busy else {
            // A task of one pool may submit to another, so check twice.
            if quiet_before {
                return lost;
            }
            quiet_before = true;
            continue;
        };
        quiet_before = false;
        let slice = now + SIGNALS;
        match wait_with_signals(py, Some(slice), |slice| core.pool().wait_quiet(Some(slice))) {
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => impatient = true,
            waited => ignore_exit(py, waited),
        }
    }
}

fn deadline_of(core: &Core, start: Instant) -> Option<Instant> {
    // A timeout beyond the clock's range is none.
    let own = core
        .shutdown_timeout
        .and_then(|timeout| start.checked_add(timeout));
    let until = *UNTIL.lock();
    match (own, until) {
        (Some(own), Some(until)) => Some(own.min(until)),
        (own, until) => own.or(until),
    }
}

/// When the process's supervisor will kill it, if known. The lock is a leaf.
static UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

#[doc = doc!("_end_within")]
#[pyfunction]
pub(crate) fn _end_within(seconds: f64) {
    let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let Some(until) = Instant::now().checked_add(time) else {
        return;
    };
    let mut earliest = UNTIL.lock();
    *earliest = Some(earliest.map_or(until, |earliest| earliest.min(until)));
}

#[doc = doc!("_end")]
#[pyfunction]
pub(crate) fn _end(py: Python<'_>) {
    drain_at_exit(py);
    close_at_exit(py);
}

/// Whether a pool of this process is busy and not given up; `None` if a lock is taken, perhaps by
/// this thread.
pub(crate) fn is_busy() -> Option<bool> {
    let cores: Vec<_> = {
        let cores = CORES.get_or_init(Mutex::default).try_lock()?;
        if cores.exited {
            return Some(false);
        }
        cores.all.iter().filter_map(Weak::upgrade).collect()
    };
    let mut busy = false;
    for core in cores.iter().filter(|core| !core.service) {
        busy |= core.is_busy()?;
    }
    Some(busy)
}

/// Closes all pools, the service pools last, and joins their threads. Returns the names of the
/// tasks that ran out of time.
fn close_pools(py: Python<'_>) -> Vec<String> {
    // Other threads may have submitted since the first time.
    let mut lost = drain_all(py);
    CORES.get_or_init(Mutex::default).lock().exited = true;
    for core in cores().iter().filter(|core| !core.service) {
        core.close();
        let joined = core.is_given_up() || join_at_exit(py, core);
        if !joined {
            give_up(py, core, &mut lost);
        }
    }
    lost
}

fn close_at_exit(py: Python<'_>) {
    let lost = close_pools(py);
    // Service pools have no tasks to lose.
    for core in cores().iter().filter(|core| core.service) {
        core.close();
    }
    for link in link::links() {
        link.close(py);
    }
    switch_interval::stop(py);
    timer::stop(py);
    report(py, &lost);
}

/// The main function of each worker's thread.
pub(crate) fn work(core: &Weak<Core>, worker: Worker<Queued>) {
    worker::main(core, worker, end_child);
}

/// Ends a process that a task forked, once that task has returned. Its only thread is not the main
/// thread, so nothing else would end it.
fn end_child(py: Python<'_>, failed: bool) {
    drain_at_exit(py);
    close_at_exit(py);
    let ended = (|| -> PyResult<()> {
        let sys = py.import("sys")?;
        for stream in ["stdout", "stderr"] {
            let stream = sys.getattr(stream)?;
            if !stream.is_none() {
                stream.call_method0("flush")?;
            }
        }
        Ok(())
    })();
    if let Err(error) = ended {
        error.write_unraisable(py, None);
    }
    if let Err(error) = py
        .import("os")
        .and_then(|os| os.call_method1("_exit", (i32::from(failed),)))
    {
        error.write_unraisable(py, None);
    }
}

/// Cancels held tasks that start only after the deadline, and notes their names.
fn give_up_late(py: Python<'_>, core: &Arc<Core>, deadline: Instant, lost: &mut Vec<String>) {
    // Dependents are cancelled with the tasks that they follow.
    let (followers, held): (Vec<_>, Vec<_>) = core
        .held()
        .tasks(py)
        .into_iter()
        .partition(|task| policy::followed(task).is_some());
    for task in held {
        if dispatch::starts_after(task.get(), deadline) && cancel(&task) {
            lost.push(label(&task));
        }
    }
    for task in followers {
        if task.get().phase().is_cancelled() {
            lost.push(label(&task));
        }
    }
}

/// Cancels tasks that have not started, tells running ones to stop, and notes the names.
fn give_up(py: Python<'_>, core: &Arc<Core>, lost: &mut Vec<String>) {
    core.set_given_up();
    core.close();
    let mut running = Vec::new();
    for slot in core.slots() {
        if let Some(task) = slot.task(py) {
            stream::tell_to_stop(&task);
            running.push((slot, task));
        }
    }
    cancel_queued(py, core, |task| lost.push(label(task)));
    for task in core.on_loop().tasks(py) {
        if !task.get().phase().is_done() {
            if !durable::has_claim(task.get()) {
                lost.push(label(&task));
            }
            stream::tell_to_stop(&task);
            cancel(&task);
        }
    }
    let grace = Instant::now() + GRACE;
    py.detach(|| {
        let _ = core.pool().join(Some(grace));
    });
    // These still run, or their callbacks do. First in the list, of which only the beginning may be
    // shown: they kept the process.
    let kept = running
        .iter()
        .filter(|(slot, task)| slot.task(py).is_some_and(|now| now.is(task)))
        .map(|(_, task)| label(task));
    lost.splice(0..0, kept);
}

/// Cancels every task that has not started; calls `each` with those that it cancelled.
pub(crate) fn cancel_queued(
    py: Python<'_>,
    core: &Arc<Core>,
    mut each: impl FnMut(&Bound<'_, Task>),
) {
    let mut others = Vec::new();
    // Read before the tasks that they follow are cancelled, which cancels them, too.
    let mut held = core.held().tasks(py);
    held.retain(|task| policy::followed(task).is_some());
    // A job that is taken out and put back must find that the pool has not ended.
    let hold = core.pool().hold();
    while let Some(job) = core.pool().steal().map(Job::from) {
        core.took_out(&job);
        match job {
            Job::Task(task) => {
                let task = task.bind(py);
                if durable::has_claim(task.get()) {
                    put_back(task);
                } else if !task.get().phase().is_done() && cancel(task) {
                    each(task);
                }
            }
            job @ Job::Claimed(_) => link::put_job_back(job),
            // The callbacks of tasks that have ended must run all the same.
            job @ (Job::Callbacks(..) | Job::Tick(_)) => others.push(job),
        }
    }
    for job in others {
        dispatch::put_back(py, core, job);
    }
    drop(hold);
    for task in held {
        if cancel(&task) {
            each(&task);
        }
    }
    for task in core
        .on_loop()
        .tasks(py)
        .into_iter()
        .chain(core.held().tasks(py))
    {
        if task.get().phase() == Phase::Pending && cancel(&task) {
            each(&task);
        }
    }
}

fn label(task: &Bound<'_, Task>) -> String {
    format!("{} ({})", name_of(task), task.get().quiet_id())
}

/// How many tasks the warning at exit names: one readable line, however many are lost.
const NAMED: usize = 20;

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn report(py: Python<'_>, lost: &[String]) {
    if lost.is_empty() {
        return;
    }
    let count = lost.len().to_string();
    let mut names = lost[..lost.len().min(NAMED)].join(", ");
    if let Some(more) = lost.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names = format!("{names} and {} more", grouped(more));
    }
    let template = if lost.len() == 1 {
        "%s task did not finish before exit and was cancelled: %s"
    } else {
        "%s tasks did not finish before exit and were cancelled: %s"
    };
    logging::warning(py, template, &[&count, &names]);
}
