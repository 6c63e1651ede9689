//! The writer thread: the one thread of a process that talks SQL.
//!
//! It takes all operations that have come, does them in one transaction, and answers. It waits for
//! the turnstile without the gate, and holds no lock while it calls the host.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::Level;
use rusqlite::{Connection, ErrorCode};

use crate::api::operation::Operation;
use crate::api::record::keep;
use crate::api::{Accepted, Claim, Error, ErrorKind, Row};
use crate::file::filesystem::refused;
use crate::file::trouble::{Result, Trouble};
use crate::file::wakeup::Woken;
use crate::file::{liveness, transaction, turnstile};
use crate::group::transaction::{Effects, Evidence, Group};
use crate::group::{chains, lists, manage, others, permits, prune, record};
use crate::process::chores::Chores;
use crate::process::memory::Watch;
use crate::process::part::{self, Disk, Files, Part, Subject};
use crate::process::{flusher, permits as process_permits};
use crate::rows::kept::Checkpoints;
use crate::rows::{counts, store};
use crate::shared::clock::now;
use crate::shared::gate::gate;
use crate::writer::state::{BUSY, REST, Writer, lost_row};

/// Progress is written so often at most.
const PROGRESS: Duration = Duration::from_millis(500);
/// Checkpoints are written so often at most, unless the file is written to in any case.
const CHECKPOINTS: Duration = Duration::from_millis(20);
/// A process without a slot has nothing to look at.
const LONG: Duration = Duration::from_hours(1);
/// Between attempts to learn what became of a commit.
const SETTLE: Duration = Duration::from_millis(100);

/// What one turn is about.
struct Turn<'a> {
    chores: &'a Chores,
    progress: &'a [(Subject, store::Progress)],
    capacity: [Option<usize>; 3],
    /// Whether it takes the operations that wait.
    takes: bool,
}

/// Why a transaction is not in the file, or may not be.
struct Failure {
    trouble: Trouble,
    effects: Box<Effects>,
    /// Its commit has failed and may have happened all the same.
    is_open: bool,
}

impl Failure {
    fn new(trouble: Trouble) -> Self {
        Self {
            trouble,
            effects: Box::default(),
            is_open: false,
        }
    }
    fn is_busy(&self) -> bool {
        self.trouble.is_busy()
    }

    fn is_worth_another_try(&self) -> bool {
        let code = match &self.trouble {
            Trouble::Sql(error) => error.sqlite_error_code(),
            Trouble::Other(_) => None,
        };
        !self.is_busy() && !self.is_open && code != Some(ErrorCode::DiskFull)
    }
}

impl Writer {
    pub(crate) fn run(mut self) {
        loop {
            if self.part.queue.fall_asleep() {
                let limit = self.rest();
                let Woken { called, asked } = self.part.bed.sleep(self.fifo.as_deref(), limit);
                self.part.queue.wake();
                self.is_called |= called;
                if asked {
                    self.part.core.host.asked(now());
                }
            }
            if self.round() {
                return;
            }
        }
    }

    /// How long there is nothing to do.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        if let Some(until) = self.rests_until
            && until > now
        {
            return until - now;
        }
        if self.is_eager || !self.chores.is_empty() {
            return Duration::ZERO;
        }
        let mut limit = match self.memory.slot {
            None => LONG,
            Some(_) => self.next_look.saturating_duration_since(now),
        };
        if self.keeps_time()
            && let Some(due) = self.memory.next_due
        {
            let left = u64::try_from(due.saturating_sub(self::now())).unwrap_or_default();
            limit = limit.min(Duration::from_micros(left));
        }
        if !self.part.progress.lock().is_empty() {
            let next = self.progress_at + PROGRESS;
            limit = limit.min(next.saturating_duration_since(now));
        }
        if self.has_checkpoints() {
            let next = self.checkpoints_at + CHECKPOINTS;
            limit = limit.min(next.saturating_duration_since(now));
        }
        limit
    }

    fn has_checkpoints(&self) -> bool {
        !self.checkpoints.is_empty() || !self.part.checkpoints.lock().is_empty()
    }

    /// After the operations were taken: what was told before them is among these.
    fn take_checkpoints(&mut self) {
        let newer = std::mem::take(&mut *self.part.checkpoints.lock());
        if !newer.is_empty() {
            self.checkpoints.add(newer);
            self.checkpoints_at = Instant::now();
        }
    }

    fn is_claiming(&self) -> bool {
        self.memory.claims && !self.part.is_leaving() && !self.is_outdated
    }

    /// Whether it is up to this process, too, to do what is due.
    fn keeps_time(&self) -> bool {
        self.is_claiming() || self.memory.permits.are_waiting()
    }

    /// Does what there is to do; whether it was the last time.
    fn round(&mut self) -> bool {
        if let Some(error) = self.broken.clone() {
            return self.refuse(&error);
        }
        if let Some(operations) = self.part.queue.take_if(Operation::is_read) {
            self.read(operations);
        }
        let now = Instant::now();
        if self.rests_until.is_some_and(|until| until > now) {
            return self.part.queue.has_any() && self.write(false);
        }
        self.rests_until = None;
        // Relaxed, both: the queue's lock orders them, under which this thread was called.
        self.is_eager |= self.part.has_room.swap(false, Ordering::Relaxed);
        if self.part.is_sick.load(Ordering::Relaxed) {
            self.cure();
        }
        let is_look = self.memory.slot.is_some() && now >= self.next_look;
        if is_look || self.is_called {
            self.is_called = false;
            self.inspect(is_look);
        }
        let is_due =
            self.keeps_time() && self.memory.next_due.is_some_and(|due| due <= self::now());
        let has_progress =
            !self.part.progress.lock().is_empty() && self.progress_at.elapsed() >= PROGRESS;
        let has_samples = !self.samples.is_empty() || !self.part.samples.lock().is_empty();
        let has_work = self.part.queue.has_any()
            || has_samples
            || self.is_eager
            || is_due
            || has_progress
            || (self.checkpoints_at.elapsed() >= CHECKPOINTS && self.has_checkpoints())
            || !self.kept.is_empty()
            || !self.chores.is_empty();
        has_work && self.write(has_progress)
    }

    // --- Reading --------------------------------------------------------------------

    fn read(&mut self, operations: Vec<Operation>) {
        let place = self.part.core.place.clone();
        for operation in operations {
            let slot = self.memory.slot;
            match operation {
                Operation::Get(id, answer) => {
                    let found = Self::with(&self.part, |connection, _| {
                        Ok(store::find(connection, &id, slot)?.0)
                    });
                    answer.give(found.map_err(|trouble| trouble.told(&place)));
                }
                Operation::Stats(answer) => {
                    let found =
                        Self::with(&self.part, |connection, _| Ok(counts::stats(connection)?));
                    let found = found.map(|stats| self.with_bytes(stats));
                    answer.give(found.map_err(|trouble| trouble.told(&place)));
                }
                Operation::Version(answer) => {
                    let found = Self::with(&self.part, |connection, files| {
                        Ok(lists::version(connection, files.openings)?)
                    });
                    answer.give(found.map_err(|trouble| trouble.told(&place)));
                }
                Operation::Look(query, answer) => {
                    let app = self.part.core.settings.app.clone();
                    let found = Self::with(&self.part, |connection, files| {
                        let found = record::answer(connection, &place, &app, slot, &query)?;
                        others::ask(files, &place, &found);
                        Ok(found)
                    });
                    answer.give(found.map_err(|trouble| trouble.told(&place)));
                }
                Operation::Show(at, text) => {
                    if let Some(slot) = slot {
                        others::write(&place, slot, at, &text);
                    }
                }
                other => {
                    let app = self.part.core.settings.app.clone();
                    let said = Self::with(&self.part, |connection, _| {
                        Ok(manage::read(connection, &app, slot, &other)?)
                    });
                    match said {
                        Ok(said) => other.give(said),
                        Err(trouble) => other.refuse(&trouble.told(&place)),
                    }
                }
            }
        }
    }

    // --- Writing --------------------------------------------------------------------

    /// Has its turn; whether the journal is closed then.
    fn write(&mut self, has_progress: bool) -> bool {
        let part = Arc::clone(&self.part);
        let capacity = if self.is_outdated {
            [None; 3]
        } else {
            part.core.host.capacity()
        };
        let chores = std::mem::take(&mut self.chores);
        self.is_eager = false;
        let mut progress = Vec::new();
        if has_progress {
            self.progress_at = Instant::now();
            progress.extend(std::mem::take(&mut *part.progress.lock()));
        }
        let turn = Turn {
            chores: &chores,
            progress: &progress,
            capacity,
            takes: true,
        };
        let mut operations = std::mem::take(&mut self.kept);
        let done = self.transact(&mut operations, &turn);
        let lost = std::mem::take(&mut self.lost_permits);
        process_permits::refuse(lost, &process_permits::lost(&part.core.place.database));
        match done {
            Ok((effects, log)) => {
                self.last_error = None;
                self.busy_since = None;
                self.follow(operations, effects, log.as_ref())
            }
            Err(failure) if failure.is_busy() => {
                // Something else than a journal has SQLite's lock. What was not taken may still be
                // withdrawn.
                std::thread::sleep(BUSY);
                self.suspect_connection();
                self.kept = operations;
                self.chores = chores;
                self.is_eager = true;
                let mut pending = part.progress.lock();
                for (subject, progress) in progress {
                    pending.entry(subject).or_insert(progress);
                }
                false
            }
            Err(failure) => {
                let error = failure.trouble.told(&part.core.place);
                self.fail(operations, &error)
            }
        }
    }

    /// One transaction. `Ok` when it is in the file, with the log that it is in.
    fn transact(
        &mut self,
        operations: &mut Vec<Operation>,
        turn: &Turn<'_>,
    ) -> std::result::Result<(Effects, Option<Arc<File>>), Failure> {
        match self.attempt(operations, turn) {
            Err(failure) if failure.is_open => self.settle(failure),
            other => other,
        }
    }

    /// Tries a transaction twice, with the turnstile and the gate held.
    fn attempt(
        &mut self,
        operations: &mut Vec<Operation>,
        turn: &Turn<'_>,
    ) -> std::result::Result<(Effects, Option<Arc<File>>), Failure> {
        let part = Arc::clone(&self.part);
        let turnstile = match take_turn(&part) {
            Ok(turnstile) => turnstile,
            Err(error) => {
                operations.extend(part.queue.take());
                return Err(Failure::new(Trouble::Other(error)));
            }
        };
        let _inside = gate().enter();
        let mut disk = part.disk.lock();
        let mut done = self.transaction(&mut disk, operations, turn);
        if let Err(failure) = &done
            && failure.is_worth_another_try()
        {
            // Once more, with everything opened anew.
            self.undo(&mut disk, &failure.effects);
            disk.suspend();
            done = self.transaction(&mut disk, operations, turn);
        }
        // Fails only for a file that is closed, and it is open.
        _ = turnstile.unlock();
        match done {
            Ok(effects) => {
                let log = self.finish(&mut disk, &effects);
                Ok((effects, log))
            }
            Err(failure) => {
                if !failure.is_open {
                    self.undo(&mut disk, &failure.effects);
                }
                Err(failure)
            }
        }
    }

    fn transaction(
        &mut self,
        disk: &mut Disk,
        operations: &mut Vec<Operation>,
        turn: &Turn<'_>,
    ) -> std::result::Result<Effects, Failure> {
        let part = Arc::clone(&self.part);
        let begun = disk
            .open_or_make(&part.core)
            .and_then(|(connection, files)| {
                transaction::begin(connection)?;
                Ok((connection, files))
            });
        let (connection, files) = match begun {
            Ok(begun) => begun,
            Err(trouble) => {
                let failure = Failure::new(trouble);
                if turn.takes && !failure.is_busy() {
                    operations.extend(part.queue.take());
                }
                return Err(failure);
            }
        };
        // From here on they are not withdrawn.
        if turn.takes {
            operations.extend(part.queue.take());
            self.take_checkpoints();
            for sample in std::mem::take(&mut *part.samples.lock()) {
                keep(&mut self.samples, sample);
            }
        }
        files.lengthen_log();
        let nothing = Chores::default();
        let is_replaced = match self.is_replaced(connection, files) {
            Ok(is_replaced) => is_replaced,
            Err(trouble) => {
                transaction::roll_back(connection);
                return Err(Failure::new(trouble));
            }
        };
        let (lost, chores) = if is_replaced {
            (self.start_anew(files), &nothing)
        } else {
            (Vec::new(), turn.chores)
        };
        let (memory, capacity) = (&mut self.memory, turn.capacity);
        let mut group = Group::new(&part, connection, files, memory, capacity, now());
        group.is_outdated = self.is_outdated;
        let done = group.work(
            operations,
            &self.checkpoints,
            chores,
            turn.progress,
            &self.samples,
        );
        let mut effects = group.effects;
        effects.ended.extend(lost);
        if is_replaced {
            let text = format!(
                "{}: this file was removed or replaced while it was in use; the tasks in the old one \
                 are lost to this process",
                part.core.place.database.display()
            );
            effects.reports.push((Level::Error, text));
        }
        if let Err(trouble) = done {
            transaction::roll_back(connection);
            return Err(Failure {
                effects: Box::new(effects),
                ..Failure::new(trouble)
            });
        }
        let Err(error) = transaction::commit(connection) else {
            return Ok(effects);
        };
        transaction::roll_back(connection);
        // On a full disk a new connection may not get what it needs.
        if error.sqlite_error_code() != Some(ErrorCode::DiskFull) {
            disk.suspend();
        }
        match self.is_committed(disk, &effects) {
            Some(true) => Ok(effects),
            found => Err(Failure {
                trouble: Trouble::Sql(error),
                effects: Box::new(effects),
                is_open: found.is_none(),
            }),
        }
    }

    /// Whether the file, opened anew, is another one than that in which this process has its slot.
    fn is_replaced(&self, connection: &Connection, files: &mut Files) -> Result<bool> {
        if !std::mem::take(&mut files.is_fresh) {
            return Ok(false);
        }
        let has_changed = std::mem::take(&mut files.has_changed);
        Ok(match self.memory.slot {
            Some(slot) => has_changed || !store::has_process(connection, slot, self.memory.since)?,
            None => false,
        })
    }

    /// Whether a transaction is in the file although its commit has failed; `None` if the file
    /// cannot be asked. Without evidence it is one that may be done twice.
    fn is_committed(&self, disk: &mut Disk, effects: &Effects) -> Option<bool> {
        let slot = effects.slot.or(self.memory.slot);
        let (connection, _) = disk.open(&self.part.core).ok()?;
        let holds = |claim: &Claim| match slot {
            Some(slot) => store::is_claimed(connection, *claim, slot),
            None => Ok(false),
        };
        let found = match &effects.evidence {
            Some(Evidence::Inserted(id)) => store::exists(connection, id),
            Some(Evidence::Claimed(claim)) => holds(claim),
            Some(Evidence::Changed(claim)) => holds(claim).map(|holds| !holds),
            Some(Evidence::Removed(id)) => store::exists(connection, id).map(|is| !is),
            Some(Evidence::Granted(task)) => permits::is_granted(connection, *task),
            None => Ok(false),
        };
        found.ok()
    }

    /// Asks the file again and again whether a transaction is in it. No operation is answered meanwhile:
    /// what is said to be refused must not be there.
    fn settle(
        &mut self,
        failure: Failure,
    ) -> std::result::Result<(Effects, Option<Arc<File>>), Failure> {
        let part = Arc::clone(&self.part);
        let began = Instant::now();
        while began.elapsed() < part.core.settings.timeout {
            std::thread::sleep(SETTLE);
            let _inside = gate().enter();
            let mut disk = part.disk.lock();
            match self.is_committed(&mut disk, &failure.effects) {
                Some(true) => {
                    let log = self.finish(&mut disk, &failure.effects);
                    return Ok((*failure.effects, log));
                }
                Some(false) => {
                    self.undo(&mut disk, &failure.effects);
                    return Err(Failure {
                        is_open: false,
                        ..failure
                    });
                }
                None => disk.suspend(),
            }
        }
        let error = failure.trouble.told(&part.core.place);
        let text = format!(
            "{}; whether it was written is not known: what was submitted may run all the same",
            error.text
        );
        Err(Failure {
            trouble: Trouble::Other(Error { text, ..error }),
            ..failure
        })
    }

    /// After a transaction that was rolled back.
    fn undo(&mut self, disk: &mut Disk, effects: &Effects) {
        self.memory.forget_names();
        if let Some(slot) = effects.slot {
            disk.files.alive = None;
            disk.files.fifo = None;
            liveness::remove(&self.part.core.place, slot);
        }
    }

    /// Wakes other processes after a commit, and closes what is not needed any more. The log that
    /// the transaction is in.
    fn finish(&mut self, disk: &mut Disk, effects: &Effects) -> Option<Arc<File>> {
        let place = &self.part.core.place;
        for &slot in &effects.wake {
            disk.files.peers.wake(place, slot);
        }
        for &slot in &effects.gone {
            liveness::remove(place, slot);
        }
        let log = disk.files.log.clone();
        if effects.is_closed {
            if let Some(connection) = disk.connection.take() {
                part::close(connection);
            }
            disk.files.fifo = None;
            let alive = disk.files.alive.take();
            if effects.gone.is_empty() {
                // Tasks still run: the lock goes with the process.
                std::mem::forget(alive);
            }
        }
        self.fifo.clone_from(&disk.files.fifo);
        self.checkpoints = Checkpoints::default();
        self.samples.clear();
        log
    }

    /// For a file in the place of the one that this process had open: it has no slot there, and its
    /// tasks are gone. What its waiters are told.
    fn start_anew(&mut self, files: &mut Files) -> Vec<Row> {
        files.forget();
        self.unknown.clear();
        self.lost_permits.extend(self.memory.permits.take());
        let lost = self.memory.start_anew();
        lost.into_iter()
            .map(|watched| {
                lost_row(
                    watched.id,
                    "the file of the journal was removed or replaced",
                )
            })
            .collect()
    }

    // --- Failures -------------------------------------------------------------------

    /// After a lock of SQLite's could not be had: the connection is opened anew each second, since
    /// SQLite may hold that lock itself. It does not know so if the system has refused to unlock.
    fn suspect_connection(&mut self) {
        if self.busy_since.get_or_insert_with(Instant::now).elapsed() >= REST {
            self.busy_since = None;
            let _inside = gate().enter();
            self.part.disk.lock().suspend();
        }
    }

    /// After a transaction that is not in the file: what waits is refused, and ends are kept.
    fn fail(&mut self, operations: Vec<Operation>, error: &Error) -> bool {
        self.report_once(error);
        self.rests_until = Some(Instant::now() + REST);
        if error.kind == ErrorKind::Corrupt {
            self.broken = Some(error.clone());
            {
                let _inside = gate().enter();
                self.part.disk.lock().suspend();
            }
            process_permits::refuse(self.memory.permits.take(), error);
            return answer_all(operations, error);
        }
        let (mut ends, others): (Vec<_>, Vec<_>) =
            operations.into_iter().partition(Operation::is_end);
        let is_closed = answer_all(others, error);
        if ends.is_empty() {
            return is_closed;
        }
        if error.kind == ErrorKind::Full && self.part.core.place.give_up_reserve() {
            let turn = Turn {
                chores: &Chores::default(),
                progress: &[],
                capacity: [None; 3],
                takes: false,
            };
            if let Ok((effects, log)) = self.transact(&mut ends, &turn) {
                return self.follow(ends, effects, log.as_ref()) || is_closed;
            }
        }
        let host = &self.part.core.host;
        let count = |is: fn(&Operation) -> bool| ends.iter().filter(|&end| is(end)).count();
        let (places, others) = (count(Operation::is_place), count(Operation::is_outcome));
        if others > 0 {
            let text = format!(
                "{others} ends of tasks are not written, and tried again: if this process ends before, \
                 these tasks run again"
            );
            host.report(Level::Error, text);
        }
        if places > 0 {
            let text = format!(
                "the places of {places} plain tasks that have ended are not given back, and that is \
                 tried again: until then, or the end of this process, others of their keys may wait"
            );
            host.report(Level::Error, text);
        }
        for end in ends {
            self.kept.extend(end.again(error));
        }
        is_closed
    }

    /// Refuses everything, since the file is damaged; whether the journal is closed.
    fn refuse(&mut self, error: &Error) -> bool {
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + REST;
            if !self.is_file_there() {
                self.broken = None;
                self.is_eager = true;
                return false;
            }
        }
        answer_all(self.part.queue.take(), error)
    }

    /// After the flusher has failed: nothing is answered for before all of the log is in the
    /// database and on the disk. What the system says of the log's pages counts no more.
    fn cure(&mut self) {
        let part = Arc::clone(&self.part);
        let since = *self.sick_since.get_or_insert_with(Instant::now);
        let copied = self.in_turn(|_, connection| {
            if transaction::check_and_copy(connection)? {
                return Ok(());
            }
            let text = "the log of the journal cannot be copied to the database";
            Err(Error::new(ErrorKind::Io, text).into())
        });
        let Err(error) = copied else {
            self.sick_since = None;
            // Relaxed: the flusher's lock orders it.
            part.is_sick.store(false, Ordering::Relaxed);
            part.flusher.recover();
            return;
        };
        self.report_once(&error);
        self.rests_until = Some(Instant::now() + REST);
        if since.elapsed() >= part.core.settings.timeout {
            self.take_back(&error);
        }
    }

    /// Does `work` in a turn of its own, with everything opened anew.
    fn in_turn(
        &mut self,
        work: impl FnOnce(&mut Self, &Connection) -> Result<()>,
    ) -> std::result::Result<(), Error> {
        let part = Arc::clone(&self.part);
        let turnstile = take_turn(&part)?;
        let _inside = gate().enter();
        let mut disk = part.disk.lock();
        disk.suspend();
        let done = disk
            .open(&part.core)
            .and_then(|(connection, _)| work(self, connection));
        // Fails only for a file that is closed, and it is open.
        _ = turnstile.unlock();
        done.map_err(|trouble| trouble.told(&part.core.place))
    }

    /// Removes the tasks that are not answered for since the disk fails, where they have not begun.
    fn take_back(&mut self, error: &Error) {
        let stalled = self.part.flusher.stalled();
        let slot = self.memory.slot;
        let removed = self.in_turn(|writer, connection| {
            transaction::begin(connection)?;
            for it in &stalled {
                for (id, accepted) in it.ids.iter().zip(&it.submitted.accepted) {
                    let claim = match accepted {
                        Accepted::Mine(claim) => writer.memory.read(*claim).zip(slot),
                        Accepted::Waiting => None,
                        // Another one stands for it.
                        _ => continue,
                    };
                    prune::remove_unbegun(connection, id, claim, self::now())?;
                }
            }
            let why = "the task before this one was refused: the disk failed";
            for follower in chains::fail_lost(connection, why, self::now())? {
                store::tell_waiters(connection, follower, None)?;
            }
            Ok(transaction::commit(connection)?)
        });
        let cause = match removed {
            Ok(()) => {
                // Their submitters are told now, and need not hear that the rows are gone.
                let ids = stalled.iter().flat_map(|it| &it.ids);
                let refused: HashSet<_> = ids.map(String::as_str).collect();
                let watched = &mut self.memory.watched;
                watched.retain(|_, it| it.why == Watch::Asked || !refused.contains(&*it.id));
                error.text.clone()
            }
            Err(_) => format!("{}; it may run all the same", error.text),
        };
        for it in &stalled {
            for accepted in &it.submitted.accepted {
                if let Accepted::Mine(claim) = accepted {
                    self.memory.running.remove(&claim.task);
                }
            }
        }
        flusher::refuse(stalled, &cause);
    }
}

/// Waits for the turnstile.
fn take_turn(part: &Part) -> std::result::Result<Arc<File>, Error> {
    let turnstile = part.turnstile()?;
    let path = part.core.place.turnstile();
    turnstile::lock(&turnstile).map_err(|error| refused(&path, "cannot be locked", &error))?;
    Ok(turnstile)
}

/// Answers all with an error; whether the journal was to be closed.
fn answer_all(operations: Vec<Operation>, error: &Error) -> bool {
    let mut is_closed = false;
    for operation in operations {
        is_closed |= matches!(operation, Operation::Close(_));
        operation.refuse(error);
    }
    is_closed
}

/// For a writer thread that has panicked: nothing is accepted any more.
pub(crate) fn give_up(part: &Part) {
    drop(part.queue.close());
    let text = format!(
        "{}: the thread of this journal has failed; this process accepts and runs no more durable \
         tasks until it is started again",
        part.core.place.database.display()
    );
    part.core.host.report(Level::Error, text);
}
