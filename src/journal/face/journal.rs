//! A journal as one app of one process has it: opening, closing, and sending operations to the
//! writer thread.

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::LazyPerProcess;
use log::Level;
use rusqlite::Connection;

use crate::api::operation::{self, Operation, Origin, Plain};
use crate::api::submission::one;
use crate::api::{
    Accepted, Cancelled, Change, Changed, Claim, Error, ErrorKind, Found, Host, NewTask, Outcome,
    Settings, Stats,
};
use crate::file::filesystem::{Place, boot, refused};
use crate::file::layout::Layout;
use crate::file::{liveness, schema, trouble, turnstile, vfs};
use crate::process::part::{self, Core, Part, Subject, closed};
use crate::rows::store;
use crate::shared::answer::{Answer, Ticket};
use crate::shared::gate::gate;
use crate::writer::state::{self, Writer};
use crate::writer::thread as writer;

/// Between attempts to have the turnstile at the opening.
const TURN: Duration = Duration::from_millis(2);

/// How long the opening waits for processes of older code to end, and how often it looks.
const OLDER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const AGAIN: Duration = Duration::from_millis(100);

/// A journal, as one app of one process has it. A copy is the same journal; a forked child that
/// uses it has its own thread, slot and connection.
#[derive(Clone)]
pub struct Journal(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) core: Arc<Core>,
    parts: LazyPerProcess<Arc<Part>>,
}

impl Journal {
    /// Opens the journal, making the file if there is none. Starts no thread and keeps nothing
    /// open but the turnstile.
    ///
    /// # Errors
    ///
    /// What of the place, the file or its version keeps it from being used.
    pub fn open(settings: Settings, host: Arc<dyn Host>) -> Result<Self, Error> {
        Self::open_as(&schema::LAYOUT, settings, host)
    }

    /// As `open`, for code that works with that layout.
    pub(crate) fn open_as(
        layout: &'static Layout,
        settings: Settings,
        host: Arc<dyn Host>,
    ) -> Result<Self, Error> {
        let place = Place::new(&settings.path);
        if !vfs::is_sqlite_new_enough() {
            let text = format!(
                "SQLite {} can lose commits: 3.51.3 or later is needed",
                rusqlite::version()
            );
            return Err(Error::new(ErrorKind::Io, text));
        }
        let warning = place.prepare()?;
        let core = Arc::new(Core {
            settings,
            host,
            place,
            boot: boot(),
            identity: OnceLock::new(),
            layout,
            records: AtomicBool::new(false),
        });
        let journal = Self(Arc::new(Inner {
            core,
            parts: LazyPerProcess::new(),
        }));
        let began = Instant::now();
        // Processes of older code may be about to end.
        while let Err(error) = journal.try_open() {
            if error.kind != ErrorKind::Older || began.elapsed() >= OLDER {
                return Err(error);
            }
            thread::sleep(AGAIN);
        }
        if let Some(text) = warning {
            journal.0.core.host.report(Level::Warn, text);
        }
        Ok(journal)
    }

    fn try_open(&self) -> Result<(), Error> {
        let part = self.part()?;
        let turn = Self::take_turn(&part)?;
        let began = Instant::now();
        let mut opened = Self::look_at_file(&part);
        // After a crash another process may be reading the log, which takes a while.
        while matches!(&opened, Err(error) if error.kind == ErrorKind::Busy)
            && began.elapsed() < part.core.settings.timeout
        {
            thread::sleep(state::BUSY);
            opened = Self::look_at_file(&part);
        }
        // Fails only for a file that is closed, and it is open.
        _ = turn.unlock();
        part.core.place.make_reserve();
        opened
    }

    /// Opens the file, or makes it, and closes it again. With the turnstile held.
    fn look_at_file(part: &Part) -> Result<(), Error> {
        let _inside = gate().enter();
        let mut disk = part.disk.lock();
        let opened = disk
            .open_or_make(&part.core)
            .and_then(|(connection, _)| {
                let identity = schema::identity(connection)?;
                // Set once: each part opens the same file.
                let _ = part.core.identity.set(identity);
                Self::check_machine(part, connection)
            })
            .map_err(|trouble| trouble.told(&part.core.place));
        disk.suspend();
        opened
    }

    /// Waits for the turnstile, but not for longer than operations do.
    fn take_turn(part: &Part) -> Result<Arc<File>, Error> {
        let path = part.core.place.turnstile();
        let turn = part.turnstile()?;
        let began = Instant::now();
        loop {
            match turn.try_lock() {
                Ok(()) => return Ok(turn),
                Err(TryLockError::Error(error)) => {
                    return Err(refused(&path, "cannot be locked", &error));
                }
                Err(TryLockError::WouldBlock) => {
                    if began.elapsed() >= part.core.settings.timeout {
                        return Err(Self::late(part));
                    }
                    thread::sleep(TURN);
                }
            }
        }
    }

    /// Refuses a file that a process of another machine uses: it cannot see the locks of this one.
    fn check_machine(part: &Part, connection: &Connection) -> trouble::Result<()> {
        let place = &part.core.place;
        for process in store::processes(connection)? {
            if process.boot != part.core.boot
                && matches!(liveness::is_free(place, process.slot), Ok(false))
            {
                let text = format!(
                    "{}: process {} of another machine uses this journal; each machine needs a file of \
                     its own: set DELAY_JOURNAL to a path on a local disk",
                    place.database.display(),
                    process.pid
                );
                return Err(Error::new(ErrorKind::OtherMachine, text).into());
            }
        }
        Ok(())
    }

    /// This process's part of the journal.
    pub(super) fn part(&self) -> Result<Arc<Part>, Error> {
        let inner = &self.0;
        if let Some(part) = inner.parts.get() {
            return Ok(Arc::clone(part));
        }
        // A child begins with what its parent knew. The lock is free there: see `Part`.
        let inherited = inner.parts.inherited().last();
        let functions = inherited.map_or_else(Vec::new, |part| part.functions.lock().clone());
        let path = &inner.core.place.folder;
        let part = Part::new(Arc::clone(&inner.core), functions)
            .map_err(|error| refused(path, "cannot be used: no pipe", &error))?;
        let part = Arc::new(part);
        let kept = inner.parts.get_or_init(|| Arc::clone(&part));
        if Arc::ptr_eq(kept, &part) {
            part::register(kept);
        }
        Ok(Arc::clone(kept))
    }

    /// Starts the writer thread of this process if it does not run.
    pub(super) fn ensure_writer(part: &Arc<Part>) -> Result<(), Error> {
        let mut has_writer = part.has_writer.lock();
        if *has_writer {
            return Ok(());
        }
        let its = Arc::clone(part);
        let main = move || {
            let thread = Writer::new(Arc::clone(&its));
            if catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {
                writer::give_up(&its);
            }
        };
        let thread = thread::Builder::new().name("flask-delay-journal".to_owned());
        thread.spawn(main).map_err(|error| {
            Error::new(ErrorKind::Io, format!("no thread for the journal: {error}"))
        })?;
        *has_writer = true;
        Ok(())
    }

    fn send(part: &Arc<Part>, operation: Operation) -> Result<u64, Error> {
        Self::ensure_writer(part)?;
        let (number, has_to_wake) = part.queue.push(operation).ok_or_else(closed)?;
        if has_to_wake {
            part.bed.wake();
        }
        Ok(number)
    }

    /// Sends an operation and waits for its answer. What the writer thread has not taken in time
    /// is withdrawn, unless it has to be done some time.
    pub(super) fn ask<T>(
        &self,
        may_withdraw: bool,
        make: impl FnOnce(Answer<T>) -> Operation,
    ) -> Result<T, Error> {
        let part = self.part()?;
        Self::start_asking(&part, make)?.wait(&part, may_withdraw)
    }

    fn start_asking<T>(
        part: &Arc<Part>,
        make: impl FnOnce(Answer<T>) -> Operation,
    ) -> Result<Asked<T>, Error> {
        let (answer, ticket) = Answer::ticket();
        let number = Self::send(part, make(answer))?;
        Ok(Asked {
            number,
            ticket,
            began: Instant::now(),
        })
    }

    fn late(part: &Part) -> Error {
        let place = &part.core.place;
        let by = turnstile::holder(&place.turnstile())
            .map_or_else(String::new, |pid| format!("; process {pid} has the turn"));
        let text = format!(
            "{}: not accepted within {} s{by}: try again, or set DELAY_JOURNAL_TIMEOUT higher",
            place.database.display(),
            part.core.settings.timeout.as_secs_f64()
        );
        Error::new(ErrorKind::Timeout, text)
    }

    /// Says which process has the turn, unless another thread has just said so.
    fn tell_of_holder(part: &Part) {
        let place = &part.core.place;
        let Some(pid) = turnstile::holder(&place.turnstile()) else {
            return;
        };
        let mut told = part.told_of_holder.lock();
        if pid == std::process::id() || told.is_some_and(|it| it.elapsed() < turnstile::PATIENCE) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        let text = format!(
            "{}: process {pid} has kept the turn for {} s; all other processes wait for it",
            place.database.display(),
            turnstile::PATIENCE.as_secs()
        );
        part.core.host.report(Level::Warn, text);
    }

    /// What tells the file from all others; a copy of it has the same.
    #[must_use]
    pub fn identity(&self) -> &str {
        // Set by `open`.
        self.0.core.identity.get().map_or("", String::as_str)
    }

    /// These functions can be run by this process, besides those that it has named before.
    pub fn know(&self, functions: Vec<String>) {
        let Ok(part) = self.part() else { return };
        {
            // Inside the gate, so that a forked child finds the lock free.
            let _inside = gate().enter();
            let mut known = part.functions.lock();
            for function in functions {
                if !known.contains(&function) {
                    known.push(function);
                }
            }
        }
        if *part.has_writer.lock() {
            // A closed journal need not know.
            _ = Self::send(&part, Operation::Know);
        }
    }

    /// Begins to claim tasks, once for each process.
    ///
    /// # Errors
    ///
    /// If the writer thread cannot start, or the journal is closed or cannot be written to.
    pub fn start(&self) -> Result<(), Error> {
        self.ask(true, Operation::Start)
    }

    /// Claims no more tasks.
    pub fn stop_claiming(&self) {
        if let Some(part) = self.0.parts.get() {
            // Relaxed: what follows from it goes through the queue's lock.
            part.is_leaving.store(true, Ordering::Relaxed);
        }
    }

    /// Tells that a worker has become free, for tasks that were left for lack of one.
    pub fn wake(&self) {
        if let Some(part) = self.0.parts.get()
            // Relaxed: a worker that misses it is made up for by the look of each second.
            && part.is_hungry.swap(false, Ordering::Relaxed)
        {
            part.has_room.store(true, Ordering::Relaxed);
            part.wake();
        }
    }

    /// Submits tasks that are in another database as well, which may bring each several times: only
    /// the first call does something, also if the answer to that was a twin. The answers are on the
    /// disk when this returns, whatever the level, so the other database may forget the tasks.
    ///
    /// The results are in the order of the tasks; errors are as for `submit`.
    #[must_use]
    pub fn carry(&self, tasks: Vec<NewTask>) -> Vec<Result<Accepted, Error>> {
        let part = match self.part() {
            Ok(part) => part,
            Err(error) => return tasks.iter().map(|_| Err(error.clone())).collect(),
        };
        // All before the first wait: they are one group, and none waits for another one's timeout.
        let asked: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let tasks = vec![NewTask { sync: true, ..task }];
                Self::start_asking(&part, |answer| {
                    Operation::Submit(tasks, Origin::Outbox, answer)
                })
            })
            .collect();
        asked
            .into_iter()
            .map(|asked| asked?.wait(&part, true).map(one))
            .collect()
    }

    /// Changes a task that this process runs; returns when that is committed.
    ///
    /// # Errors
    ///
    /// Then it is not in the file; if this process ends, the task runs again.
    pub fn change(&self, claim: Claim, change: Change) -> Result<Changed, Error> {
        self.ask(false, |answer| Operation::Change(claim, change, answer))
    }

    /// As `change`, but calls `then`, mostly on the writer thread: it must not block.
    pub fn change_later(
        &self,
        claim: Claim,
        change: Change,
        then: Box<dyn FnOnce(Result<Changed, Error>) + Send>,
    ) {
        let answer = Answer::call(then);
        // If it cannot be sent, its answer says so when it is dropped.
        if let Ok(part) = self.part() {
            _ = Self::send(&part, Operation::Change(claim, change, answer));
        }
    }

    /// What there is of a task.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, the wait takes too long, or the journal is closed.
    pub fn get(&self, id: &str) -> Result<Found, Error> {
        self.ask(true, |answer| Operation::Get(id.to_owned(), answer))
    }

    /// As `get`; if it has not ended, `Host::ended` follows.
    ///
    /// # Errors
    ///
    /// As for `get`, or if the file cannot be written to.
    pub fn watch(&self, id: &str) -> Result<Found, Error> {
        self.ask(true, |answer| Operation::Watch(id.to_owned(), answer))
    }

    /// Cancels a task that has not begun.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to, the wait takes too long, or the journal is closed.
    pub fn cancel(&self, id: &str) -> Result<Cancelled, Error> {
        self.ask(true, |answer| Operation::Cancel(id.to_owned(), answer))
    }

    /// Cancels a task, or asks the process that runs it to stop it.
    ///
    /// # Errors
    ///
    /// As for `cancel`.
    pub fn stop(&self, id: &str) -> Result<Cancelled, Error> {
        self.ask(true, |answer| Operation::Stop(id.to_owned(), answer))
    }

    /// Tells how far a task of this process is; written at most twice a second.
    pub fn progress(&self, claim: Claim, done: f64, total: Option<f64>, note: String) {
        self.tell_progress(Subject::Claim(claim), done, total, note);
    }

    fn tell_progress(&self, subject: Subject, done: f64, total: Option<f64>, note: String) {
        let Ok(part) = self.part() else { return };
        let progress = store::Progress { done, total, note };
        let is_first = {
            let mut pending = part.progress.lock();
            let is_first = pending.is_empty();
            pending.insert(subject, progress);
            is_first
        };
        if is_first {
            part.wake();
        }
    }

    /// Keeps a value, as JSON, for the next attempt of a task of this process, in a place of its own.
    /// Returns at once: it is written with the next group. Whatever of the task is written after
    /// this call, its end, a step, another attempt, is not in the file without it.
    pub fn checkpoint(&self, claim: Claim, place: u32, value: String) {
        let Ok(part) = self.part() else { return };
        let is_first = {
            let mut pending = part.checkpoints.lock();
            let is_first = pending.is_empty();
            pending.set(claim, place, value);
            is_first
        };
        if is_first {
            part.wake();
        }
    }

    /// Keeps the result of a step, as JSON, of a task that this process runs; returns when it is
    /// committed.
    ///
    /// # Errors
    ///
    /// Then it is not in the file: it is tried again while this process lives, but if that ends, the
    /// step runs again.
    pub fn step(&self, claim: Claim, name: String, result: String) -> Result<Changed, Error> {
        let step = Box::new(operation::Step { name, result });
        self.ask(false, |answer| Operation::Step(claim, step, answer))
    }

    /// As `step`, but calls `then`, mostly on the writer thread: it must not block.
    pub fn step_later(
        &self,
        claim: Claim,
        name: String,
        result: String,
        then: Box<dyn FnOnce(Result<Changed, Error>) + Send>,
    ) {
        let step = Box::new(operation::Step { name, result });
        let answer = Answer::call(then);
        // If it cannot be sent, its answer says so when it is dropped.
        if let Ok(part) = self.part() {
            _ = Self::send(&part, Operation::Step(claim, step, answer));
        }
    }

    /// Whether this process claims no more tasks, since it ends.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.parts.get().is_some_and(|part| part.is_leaving())
    }

    /// Publishes a plain task of this process; does not wait. It is never claimed, and fails if
    /// this process dies.
    pub fn publish(&self, id: String, function: String, submitted_at: i64, began: Option<i64>) {
        self.tell(Operation::Publish(Box::new(Plain {
            id,
            function,
            submitted_at,
            began,
        })));
    }

    /// A published task begins.
    pub fn publish_began(&self, id: &str, at: i64) {
        self.tell(Operation::PublishBegan(id.to_owned(), at));
    }

    /// How far a published task is.
    pub fn publish_progress(&self, id: &str, done: f64, total: Option<f64>, note: String) {
        self.tell_progress(Subject::Plain(id.to_owned()), done, total, note);
    }

    /// A published task ends.
    pub fn publish_ended(&self, id: String, outcome: Outcome) {
        self.tell(Operation::PublishEnded(id, outcome));
    }

    /// Sends an operation without a waiting thread.
    pub(super) fn tell(&self, operation: Operation) {
        if let Ok(part) = self.part() {
            // A closed journal need not hear it.
            _ = Self::send(&part, operation);
        }
    }

    /// Counts tasks and processes.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.ask(true, Operation::Stats)
    }

    /// Ends the use of the journal in this process. What still runs is left to the other processes
    /// when this one has ended.
    pub fn close(&self) {
        let Some(part) = self.0.parts.get() else {
            return;
        };
        self.stop_claiming();
        if *part.has_writer.lock() {
            // An error is the end too; the look of another process finds what is left.
            _ = self.ask(true, Operation::Close);
        } else {
            drop(part.queue.close());
        }
    }
}

/// An operation that was sent, and waits for its answer.
struct Asked<T> {
    number: u64,
    ticket: Arc<Ticket<Result<T, Error>>>,
    began: Instant,
}

impl<T> Asked<T> {
    fn wait(self, part: &Arc<Part>, may_withdraw: bool) -> Result<T, Error> {
        let Self {
            number,
            ticket,
            began,
        } = self;
        let limit = part.core.settings.timeout;
        let mut is_told = false;
        loop {
            let spent = began.elapsed();
            let next = match (is_told, may_withdraw) {
                (false, true) => limit.min(turnstile::PATIENCE),
                (false, false) => turnstile::PATIENCE,
                (true, true) => limit,
                (true, false) => return ticket.wait(),
            };
            if let Some(answer) = ticket.wait_for(next.saturating_sub(spent)) {
                return answer;
            }
            let spent = began.elapsed();
            if !is_told && spent >= turnstile::PATIENCE {
                is_told = true;
                Journal::tell_of_holder(part);
            }
            if may_withdraw && spent >= limit {
                if part.queue.withdraw(number).is_some() {
                    return Err(Journal::late(part));
                }
                // It is taken, and will be answered.
                return ticket.wait();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(part) = self.parts.get() else {
            return;
        };
        if *part.has_writer.lock() {
            let (answer, _) = Answer::ticket();
            // Closed already: then the thread has ended.
            _ = Journal::send(part, Operation::Close(answer));
        }
    }
}
