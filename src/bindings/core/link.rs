//! A process's side of a journal: its rows for the workers, its messages for Python.
//!
//! The journal's writer thread calls [`Caller`] and never waits for the GIL. It gives claimed rows
//! to the pool as jobs, and all else to the courier, a thread that attaches to Python.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use flask_delay_engine::{LazyPerProcess, Mutex, PerProcess, SubmitError};
use flask_delay_journal::{
    Change, Changed, Claimed, Command, DeadLetter, Error, ErrorKind, Host, Journal, Permit, Pool,
    Row,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::executor::{Core, Job, Note};
use super::holders::Holders;
use super::leftovers;
use super::obey::{Obeying, Wish, obey, shown};
use super::task::Task;
use crate::bindings::errors::JournalUnavailable;
use crate::bindings::ffi::attach::attach;

/// A `Delay`'s journal, and what its rows need of Python.
pub(crate) struct Link {
    journal: OnceLock<Journal>,
    core: Weak<Core>,
    /// The most bytes of a call, and of a result.
    pub(crate) most: usize,
    /// Whether the journal is told of plain tasks.
    publishes: bool,
    /// What does not change about this process, as JSON, for pages. The lock is a leaf.
    about: Mutex<String>,
    pub(crate) hooks: Hooks,
    here: PerProcess<Here>,
}

/// Functions of `flask_delay.journal`.
pub(crate) struct Hooks {
    /// From a registered name and options as text: the function, its policy and its executor.
    pub(crate) revive: Py<PyAny>,
    /// From a function: the name by which all processes count its tasks together.
    pub(crate) lane: Py<PyAny>,
    /// An exception as text, and back.
    pub(crate) encode_error: Py<PyAny>,
    pub(crate) decode_error: Py<PyAny>,
    /// Sends the signal of a dead letter.
    pub(crate) dead: Py<PyAny>,
    /// Does what another process asks.
    pub(crate) obey: Py<PyAny>,
    /// Tells of the tasks of this process, as text; None if there is nothing to tell.
    pub(crate) show: Py<PyAny>,
}

/// The tasks of one process.
#[derive(Default)]
struct Here {
    /// Unfinished tasks by id. The lock is a leaf, and nothing is dropped under it.
    tasks: Mutex<HashMap<String, Py<Task>>>,
    /// How many claimed tasks each pool has.
    claimed: [AtomicUsize; 3],
    /// The executor of tasks in child processes, once it is known.
    processes: Mutex<Option<Weak<Core>>>,
    /// The plain tasks with places on the machine.
    holders: Holders,
    /// What was logged once. As `tasks`.
    warned: Mutex<HashSet<String>>,
    courier: OnceLock<Courier>,
    /// What other processes ask of this one.
    obeying: Obeying,
}

struct Courier {
    messages: Sender<Message>,
    /// Joined when the journal is closed.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the courier brings to Python.
pub(crate) enum Message {
    /// Tasks that ended in another process, or in the journal.
    Ended(Vec<Row>),
    /// Another process asks the task with this id to stop.
    Stop(String),
    Report(log::Level, String),
    /// Tasks that this process has made dead letters.
    Dead(Vec<DeadLetter>),
    /// The end of an attempt is in the journal.
    Stored(Stored),
    /// The result of a coroutine's step is in the journal, or is not.
    Stepped {
        step: Py<PyAny>,
        told: Py<PyAny>,
        changed: Result<Changed, Error>,
    },
    /// Whether a plain task has the permit that it has asked for, or gave it back before.
    Permit {
        task: Py<Task>,
        permit: Permit,
        granted: Result<bool, Error>,
    },
    /// Ends the courier.
    Close,
}

/// The end of a task without its worker, once the journal has it.
pub(crate) struct Stored {
    pub(crate) task: Py<Task>,
    pub(crate) end: Ending,
    pub(crate) note: Option<Note>,
}

/// As `End` of `transition`, without a thread that is attached.
pub(crate) enum Ending {
    Returned(Py<PyAny>),
    Raised(Py<PyAny>),
    Cancelled,
}

/// All links, for the exit of the process. The lock is a leaf.
static LINKS: LazyPerProcess<Mutex<Vec<Weak<Link>>>> = LazyPerProcess::new();

/// See [`is_used`].
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Whether this process or its parent has made a link.
#[inline]
pub(crate) fn is_used() -> bool {
    // Relaxed: as in `Link::new`.
    IS_USED.load(Ordering::Relaxed)
}

/// Tells the journal of an executor that a worker of it has become free.
#[inline]
pub(crate) fn has_room(core: &Weak<Core>) {
    if is_used()
        && let Some(link) = core.upgrade().and_then(|core| core.journal())
    {
        link.tell(Journal::wake);
    }
}

/// The links that exist.
pub(crate) fn links() -> Vec<Arc<Link>> {
    let links = LINKS.get_or_init(Mutex::default).lock();
    links.iter().filter_map(Weak::upgrade).collect()
}

impl Link {
    /// Makes a link whose journal `open` opens. If it `publishes`, the journal is told of plain
    /// tasks, too, once their ids are asked for.
    pub(crate) fn new(
        core: &Arc<Core>,
        hooks: Hooks,
        most: usize,
        publishes: bool,
        open: impl FnOnce(Arc<dyn Host>) -> Result<Journal, Error>,
    ) -> PyResult<Arc<Self>> {
        let link = Arc::new(Self {
            journal: OnceLock::new(),
            core: Arc::downgrade(core),
            most,
            publishes,
            about: Mutex::default(),
            hooks,
            here: PerProcess::new(Here::default()),
        });
        let journal = open(Arc::new(Caller(Arc::downgrade(&link)))).map_err(refusal)?;
        let _ = link.journal.set(journal);
        // Another thread may have been faster: the executor has one link, or workers would wake, and
        // plain tasks be told to, one that is dropped.
        if !core.set_journal(&link)
            && let Some(first) = core.journal()
        {
            return Ok(first);
        }
        // Relaxed: a worker that misses it is made up for by the journal's look of each second.
        IS_USED.store(true, Ordering::Relaxed);
        let mut links = LINKS.get_or_init(Mutex::default).lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        drop(links);
        Ok(link)
    }

    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    fn here(&self) -> &Here {
        self.here.get_or_init(Here::default)
    }

    /// Calls the journal without the GIL.
    ///
    /// # Errors
    ///
    /// `JournalUnavailable`.
    pub(crate) fn ask<R: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&Journal) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let Some(journal) = self.journal.get() else {
            return Err(JournalUnavailable::new_err("the journal is not open"));
        };
        py.detach(|| question(journal)).map_err(refusal)
    }

    /// Whether the journal is told of plain tasks.
    pub(crate) fn publishes(&self) -> bool {
        self.publishes
    }

    pub(crate) fn about(&self) -> String {
        self.about.lock().clone()
    }

    pub(crate) fn set_about(&self, about: String) {
        *self.about.lock() = about;
    }

    /// What tells the journal's file from all others.
    pub(crate) fn identity(&self) -> &str {
        self.journal.get().map_or("", Journal::identity)
    }

    /// Tells the journal something that it does not wait for.
    pub(crate) fn tell(&self, words: impl FnOnce(&Journal)) {
        if let Some(journal) = self.journal.get() {
            words(journal);
        }
    }

    pub(crate) fn holders(&self) -> &Holders {
        &self.here().holders
    }

    /// Whether the process ends, and claims no more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.journal.get().is_some_and(Journal::is_leaving)
    }

    /// Adds an unfinished task; returns another task of this process that has the id.
    pub(crate) fn add<'py>(&self, id: &str, task: &Bound<'py, Task>) -> Option<Bound<'py, Task>> {
        let mut tasks = self.here().tasks.lock();
        if let Some(known) = tasks.get(id) {
            return Some(known.bind(task.py()).clone());
        }
        tasks.insert(id.to_owned(), task.clone().unbind());
        None
    }

    /// The unfinished task with this id.
    pub(crate) fn find<'py>(&self, py: Python<'py>, id: &str) -> Option<Bound<'py, Task>> {
        let tasks = self.here().tasks.lock();
        tasks.get(id).map(|task| task.bind(py).clone())
    }

    /// Forgets a task, which has ended or was not accepted.
    pub(crate) fn remove(&self, id: &str) {
        let task = self.here().tasks.lock().remove(id);
        drop(task);
    }

    /// Forgets this task, and no later one with its id.
    pub(crate) fn forget(&self, id: &str, this: &Bound<'_, Task>) {
        let mut tasks = self.here().tasks.lock();
        if tasks.get(id).is_some_and(|task| task.is(this)) {
            let task = tasks.remove(id);
            drop(tasks);
            drop(task);
        }
    }

    /// Sets the executor of tasks in child processes.
    pub(crate) fn set_processes(&self, core: &Arc<Core>) {
        *self.here().processes.lock() = Some(Arc::downgrade(core));
    }

    fn fulfil(&self, py: Python<'_>, wish: Wish) -> PyResult<()> {
        match wish {
            Wish::Command(command) => obey(self.hooks.obey.bind(py), command),
            Wish::Show(at) => {
                if let Some(text) = shown(self.hooks.show.bind(py))? {
                    self.tell(|journal| journal.show(at, text));
                }
                Ok(())
            }
        }
    }

    /// Has the journal know the plain tasks of the executor of child processes, as those of its own.
    pub(crate) fn adopt(self: &Arc<Self>, core: &Arc<Core>) {
        if core.set_journal(self) {
            self.set_processes(core);
        }
    }

    /// A task of this process whose id was asked for.
    pub(crate) fn known<'py>(&self, py: Python<'py>, id: &str) -> Option<Bound<'py, Task>> {
        let processes = self.here().processes.lock().clone();
        let cores = [self.core(), processes.and_then(|it| it.upgrade())];
        let mut found = cores.into_iter().flatten();
        found.find_map(|core| core.registry.get(py, id))
    }

    /// Sends to the courier, which is started at first use.
    pub(crate) fn send(self: &Arc<Self>, message: Message) {
        let courier = self.here().courier.get_or_init(|| start(self));
        // It ends when the journal is closed.
        let _ = courier.messages.send(message);
    }

    /// Logs a warning, once for each `subject`.
    pub(crate) fn warn_once(self: &Arc<Self>, subject: String, text: impl FnOnce() -> String) {
        if self.here().warned.lock().insert(subject) {
            self.send(Message::Report(log::Level::Warn, text()));
        }
    }

    /// Closes the journal, after which it answers no more, and ends the courier.
    pub(crate) fn close(&self, py: Python<'_>) {
        py.detach(|| self.tell(Journal::close));
        if let Some(courier) = self.here().courier.get() {
            let _ = courier.messages.send(Message::Close);
            let thread = courier.thread.lock().take();
            // A task's callback may close the journal on the courier itself.
            let thread = thread.filter(|it| it.thread().id() != std::thread::current().id());
            py.detach(|| thread.map(JoinHandle::join));
        }
        // Nothing ends these tasks here any more, and they keep the executor.
        let tasks = std::mem::take(&mut *self.here().tasks.lock());
        for task in tasks.into_values() {
            let task = task.into_bound(py);
            if let Some(core) = task.get().core() {
                core.registry.remove(&task.get().quiet_id(), &task);
            }
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.hooks.revive)?;
        visit.call(&self.hooks.lane)?;
        visit.call(&self.hooks.encode_error)?;
        visit.call(&self.hooks.decode_error)?;
        visit.call(&self.hooks.dead)?;
        visit.call(&self.hooks.obey)?;
        visit.call(&self.hooks.show)
    }
}

/// Starts the courier of this process.
fn start(link: &Arc<Link>) -> Courier {
    let (sender, messages) = channel();
    let link = Arc::downgrade(link);
    let started = std::thread::Builder::new()
        .name("delay-courier".to_owned())
        .stack_size(leftovers::STACK)
        .spawn(move || {
            for message in messages {
                let close = matches!(message, Message::Close);
                let link = link.upgrade();
                let core = link.as_ref().and_then(|link| link.core());
                if let (Some(link), Some(core)) = (&link, &core) {
                    let mut message = Some(message);
                    attach(|py| {
                        if let Some(message) = message.take() {
                            (core.runner.deliver)(py, link, message);
                        }
                    });
                    // Leaked if the interpreter is gone.
                    std::mem::forget(message);
                }
                if close {
                    return;
                }
            }
        });
    if let Err(error) = &started {
        log::error!("the journal's courier could not be started: {error}");
    }
    Courier {
        messages: sender,
        thread: Mutex::new(started.ok()),
    }
}

/// The journal's way to the process. Weak, since the link has the journal.
struct Caller(Weak<Link>);

impl Host for Caller {
    fn capacity(&self) -> [Option<usize>; 3] {
        let Some(link) = self.0.upgrade() else {
            return [None; 3];
        };
        let here = link.here();
        let processes = here.processes.lock().clone();
        let free = |core: Option<Arc<Core>>, pool: Pool| {
            let core = core?;
            let stats = core.pool().stats();
            let busy = stats.threads.saturating_sub(stats.idle + stats.waiting) + stats.queued;
            // Relaxed: a hint, which a later look corrects.
            let claimed = here.claimed[pool as usize].load(Ordering::Relaxed);
            // The journal subtracts the claimed ones, also those that wait for another task, in whose
            // place a worker is free.
            Some(core.max_workers().saturating_sub(busy) + claimed)
        };
        let threads = free(link.core(), Pool::Threads);
        [
            threads,
            threads.map(|_| COROUTINES),
            match processes {
                Some(core) => free(core.upgrade(), Pool::Processes),
                // The first claimed one makes the executor.
                None => threads.map(|_| 1),
            },
        ]
    }

    fn run(&self, tasks: Vec<Claimed>) {
        if let Some(link) = self.0.upgrade() {
            link.run(tasks);
        }
    }

    fn ended(&self, rows: Vec<Row>) {
        self.send(Message::Ended(rows));
    }

    fn stop(&self, id: &str) {
        self.send(Message::Stop(id.to_owned()));
    }

    fn command(&self, command: Command) {
        self.wish(Wish::Command(command));
    }

    fn asked(&self, at: i64) {
        self.wish(Wish::Show(at));
    }

    fn dead(&self, letters: Vec<DeadLetter>) {
        self.send(Message::Dead(letters));
    }

    fn report(&self, level: log::Level, text: String) {
        self.send(Message::Report(level, text));
    }
}

impl Caller {
    fn wish(&self, wish: Wish) {
        let Some(link) = self.0.upgrade() else {
            return;
        };
        let weak = Weak::clone(&self.0);
        link.here().obeying.take(wish, move |wish| {
            let Some(link) = weak.upgrade() else {
                return false;
            };
            // Nothing if the interpreter is gone. A reference to the link may keep Python's objects.
            attach(move |py| {
                if let Err(error) = link.fulfil(py, wish) {
                    error.write_unraisable(py, None);
                }
                drop(link);
            });
            true
        });
    }

    fn send(&self, message: Message) {
        if let Some(link) = self.0.upgrade() {
            link.send(message);
        }
    }
}

/// How many coroutines of durable tasks run at once in a process.
const COROUTINES: usize = 100;

impl Link {
    /// Gives claimed rows to the workers. Returns at once.
    pub(crate) fn run(self: &Arc<Self>, tasks: Vec<Claimed>) {
        let Some(core) = self.core() else {
            return;
        };
        for claimed in tasks {
            self.count(claimed.pool);
            let job = Job::Claimed(Box::new((Arc::clone(self), claimed)));
            core.uncounted().add();
            if let Err(SubmitError::Closed(job) | SubmitError::Spawn(job, _)) =
                core.pool().resubmit(job.into())
            {
                let job = Job::from(job);
                core.took_out(&job);
                put_job_back(job);
            }
        }
    }

    pub(crate) fn count(&self, pool: Pool) {
        // Relaxed: as in `capacity`.
        self.here().claimed[pool as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uncount(&self, pool: Pool) {
        // Relaxed: as in `capacity`.
        self.here().claimed[pool as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives a claimed row back, which no worker has begun. Returns at once.
pub(crate) fn put_job_back(job: Job) {
    if let Job::Claimed(claimed) = job {
        let (link, claimed) = *claimed;
        give_back(&link, &claimed, Change::PutBack);
    }
}

/// Answers for a claimed row that does not run here. Returns at once.
pub(crate) fn give_back(link: &Arc<Link>, claimed: &Claimed, change: Change) {
    link.uncount(claimed.pool);
    link.tell(|journal| journal.change_later(claimed.claim, change, Box::new(|_| ())));
}

/// The error for a journal that cannot answer.
pub(crate) fn refusal(error: Error) -> PyErr {
    match error.kind {
        ErrorKind::Network | ErrorKind::Folder | ErrorKind::OtherMachine => {
            PyValueError::new_err(error.text)
        }
        _ => JournalUnavailable::new_err(error.text),
    }
}
