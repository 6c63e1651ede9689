//! The writer thread: the one thread of a process that talks SQL.
//!
//! It takes all operations that have come, does them in one transaction, and answers. It waits for
//! the turnstile without the gate, and holds no lock while it calls the host.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::Level;
use rusqlite::{Connection, ErrorCode};

use crate::api::{Claim, Error, ErrorKind, Pool, Row, Stats, SyncLevel};
use crate::filesystem::refused;
use crate::flusher::Waiting;
use crate::gate::gate;
use crate::group::{Chores, Effects, Evidence, Group, Result, Trouble};
use crate::memory::{Memory, Watch};
use crate::operation::{Operation, Said};
use crate::part::{self, Disk, Part, Subject};
use crate::wakeup::Woken;
use crate::{liveness, store, turnstile};

/// How often an idle process looks at the others.
const LOOK: Duration = Duration::from_secs(1);
/// Progress is written so often at most.
const PROGRESS: Duration = Duration::from_millis(500);
/// A process without a slot has nothing to look at.
const LONG: Duration = Duration::from_hours(1);
/// Dead letters and parked tasks are kept so long, in microseconds.
const KEPT: i64 = 30 * 24 * 3600 * 1_000_000;
/// How often ended rows are counted, and functions that nobody knows looked for.
const SELDOM: Duration = Duration::from_secs(5);
/// After this long without a process that knows its function a task is parked.
const UNKNOWN: Duration = Duration::from_mins(1);
/// Between attempts to get SQLite's lock while something else has it.
const BUSY: Duration = Duration::from_millis(2);

/// The time in microseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) struct Writer {
    part: Arc<Part>,
    memory: Memory,
    fifo: Option<Arc<File>>,
    /// What the last look saw: when it changes, another process has committed.
    data_version: Option<i64>,
    next_look: Instant,
    progress_at: Instant,
    seldom_at: Instant,
    /// Since when this process sees tasks of functions that nobody knows.
    unknown: HashMap<i64, Instant>,
    /// Another process has called.
    is_called: bool,
    /// There may be tasks to claim.
    is_eager: bool,
    chores: Chores,
}

impl Writer {
    pub(crate) fn new(part: Arc<Part>) -> Self {
        let now = Instant::now();
        Self {
            part,
            memory: Memory::default(),
            fifo: None,
            data_version: None,
            next_look: now,
            progress_at: now,
            seldom_at: now,
            unknown: HashMap::new(),
            is_called: false,
            is_eager: false,
            chores: Chores::default(),
        }
    }

    pub(crate) fn run(mut self) {
        loop {
            if self.part.queue.fall_asleep() {
                let limit = self.rest();
                if self.part.bed.sleep(self.fifo.as_deref(), limit) == Woken::Elsewhere {
                    self.is_called = true;
                }
                self.part.queue.wake();
            }
            if self.round() {
                return;
            }
        }
    }

    /// How long there is nothing to do.
    fn rest(&self) -> Duration {
        if self.is_eager {
            return Duration::ZERO;
        }
        let mut limit = match self.memory.slot {
            None => LONG,
            Some(_) => self.next_look.saturating_duration_since(Instant::now()),
        };
        if self.memory.claims
            && !self.part.is_leaving()
            && let Some(due) = self.memory.next_due
        {
            let left = u64::try_from(due.saturating_sub(now())).unwrap_or_default();
            limit = limit.min(Duration::from_micros(left));
        }
        if !self.part.progress.lock().is_empty() {
            let next = self.progress_at + PROGRESS;
            limit = limit.min(next.saturating_duration_since(Instant::now()));
        }
        limit
    }

    /// Does what there is to do; whether it was the last time.
    fn round(&mut self) -> bool {
        if let Some(operations) = self.part.queue.take_if(Operation::is_read) {
            self.read(operations);
        }
        // Relaxed: the queue's lock orders it, under which the worker has poked.
        self.is_eager |= self.part.has_room.swap(false, Ordering::Relaxed);
        let is_look = self.memory.slot.is_some() && Instant::now() >= self.next_look;
        if is_look || self.is_called {
            self.is_called = false;
            self.inspect(is_look);
        }
        let is_due = self.memory.claims
            && !self.part.is_leaving()
            && self.memory.next_due.is_some_and(|due| due <= now());
        let has_progress =
            !self.part.progress.lock().is_empty() && self.progress_at.elapsed() >= PROGRESS;
        let has_work = self.part.queue.has_any() || self.is_eager || is_due || has_progress;
        if has_work || !self.chores.is_empty() {
            return self.write(has_progress);
        }
        false
    }

    /// Calls `work` with the connection, inside the gate.
    fn with<T>(
        part: &Part,
        work: impl FnOnce(&Connection, &mut part::Files) -> Result<T>,
    ) -> Result<T> {
        let _inside = gate().enter();
        let mut disk = part.disk.lock();
        let (connection, files) = disk.open(&part.core).map_err(Trouble::Other)?;
        work(connection, files)
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
                        Self::with(&self.part, |connection, _| Ok(store::stats(connection)?));
                    let found = found.map(|stats| self.with_bytes(stats));
                    answer.give(found.map_err(|trouble| trouble.told(&place)));
                }
                // Others are not taken as reads.
                _ => {}
            }
        }
    }

    fn with_bytes(&self, mut stats: Stats) -> Stats {
        let place = &self.part.core.place;
        stats.bytes = [&place.database, &place.log()]
            .into_iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|found| found.len())
            .sum();
        stats
    }

    /// Looks for what others have done and left, without a turn.
    fn inspect(&mut self, is_look: bool) {
        let capacity = self.part.core.host.capacity();
        let part = Arc::clone(&self.part);
        let seen = Self::with(&part, |connection, files| {
            self.look_about(connection, files, is_look, capacity)
        });
        if is_look {
            self.next_look = Instant::now() + LOOK;
        }
        match seen {
            Ok(seen) => {
                if !seen.ended.is_empty() {
                    self.part.core.host.ended(seen.ended);
                }
                for id in seen.stops {
                    self.part.core.host.stop(&id);
                }
            }
            Err(trouble) => {
                let error = trouble.told(&self.part.core.place);
                self.part.core.host.report(Level::Error, error.text);
            }
        }
    }

    fn look_about(
        &mut self,
        connection: &Connection,
        files: &mut part::Files,
        is_look: bool,
        capacity: [Option<usize>; 3],
    ) -> Result<Seen> {
        let mut seen = Seen::default();
        let Some(slot) = self.memory.slot else {
            return Ok(seen);
        };
        let claims = self.memory.claims && !self.part.is_leaving();
        let version = store::data_version(connection)?;
        if !is_look || self.data_version != Some(version) {
            self.data_version = Some(version);
            self.hear(connection, slot, &mut seen)?;
            if claims {
                self.look_for_work(connection, slot, capacity)?;
            }
        }
        if !is_look {
            return Ok(seen);
        }
        self.memory.waiting = None;
        let core = Arc::clone(&self.part.core);
        let processes = store::processes(connection)?;
        files
            .peers
            .keep(|slot| processes.iter().any(|process| process.slot == slot));
        if !claims {
            return Ok(seen);
        }
        for process in processes {
            if process.slot == slot {
                continue;
            }
            let path = core.place.alive(process.slot);
            let is_dead = liveness::is_dead(&core.place, process.slot)
                .map_err(|error| Trouble::Other(refused(&path, "cannot be looked at", &error)))?;
            if is_dead {
                self.chores.dead.push(process);
            }
        }
        // Tasks may be left since workers were busy with other work.
        self.look_for_work(connection, slot, capacity)?;
        let now = now();
        let since = now.saturating_sub(micros(core.settings.keep));
        let long_since = now.saturating_sub(KEPT);
        if store::has_old(connection, since, long_since)? {
            self.chores.prune = Some((since, long_since, 0));
        }
        if self.seldom_at.elapsed() >= SELDOM {
            self.seldom_at = Instant::now();
            let surplus = store::count_ended(connection)?.saturating_sub(core.settings.limit);
            if surplus > 0 {
                self.chores.prune = Some((since, long_since, surplus));
            }
            self.look_for_unknown(connection)?;
        }
        Ok(seen)
    }

    /// Takes in what others have told this process.
    fn hear(&mut self, connection: &Connection, slot: i64, seen: &mut Seen) -> Result<()> {
        for task in store::told(connection, slot)? {
            if self.memory.watched.remove(&task).is_some() {
                seen.ended.extend(store::row(connection, task, Some(slot))?);
            }
            self.chores.told.push(task);
        }
        for (task, id) in store::asked_to_stop(connection, slot)? {
            let is_told = match self.memory.running.get_mut(&task) {
                Some(running) => std::mem::replace(&mut running.is_told, true),
                None => !self.memory.told_plain.insert(task),
            };
            if !is_told {
                seen.stops.push(id);
            }
        }
        Ok(())
    }

    /// Whether there are tasks that this process can claim; when the next one is due.
    fn look_for_work(
        &mut self,
        connection: &Connection,
        slot: i64,
        capacity: [Option<usize>; 3],
    ) -> Result<()> {
        let Some(application) = self.memory.application else {
            return Ok(());
        };
        self.memory.next_due = store::next_due(connection, application)?;
        let memory = &self.memory;
        let known = |function: i64| memory.known.contains(&function);
        let may_run =
            |function: i64, pool: Pool| known(function) && capacity[pool as usize].is_some();
        let is_idle = memory.running.is_empty();
        let mut is_eager = match memory.reserved {
            Some(task) => is_idle || !store::is_reserved(connection, task, slot)?,
            None => store::suspect(connection, application, slot, is_idle, may_run)?.is_some(),
        };
        if memory.reserved.is_none() && !memory.running.values().any(|it| it.is_suspect) {
            for pool in Pool::ALL {
                let flight = memory.running.values().filter(|it| it.pool == pool).count();
                let is_free =
                    capacity[pool as usize].is_some_and(|most| most > flight || flight == 0);
                if is_free && !store::ready(connection, application, pool, 1, known)?.is_empty() {
                    is_eager = true;
                }
            }
        }
        self.is_eager |= is_eager;
        Ok(())
    }

    fn look_for_unknown(&mut self, connection: &Connection) -> Result<()> {
        let Some(application) = self.memory.application else {
            return Ok(());
        };
        let known = &self.memory.known;
        let found = store::ready_unknown(connection, application, |it| known.contains(&it))?;
        self.unknown.retain(|function, _| found.contains(function));
        for function in found {
            if store::is_known_to_any(connection, function)? {
                self.unknown.remove(&function);
                continue;
            }
            let since = *self.unknown.entry(function).or_insert_with(Instant::now);
            if since.elapsed() >= UNKNOWN {
                self.chores.park.push(function);
            }
        }
        Ok(())
    }

    // --- Writing --------------------------------------------------------------------

    /// Has its turn; whether the journal is closed then.
    fn write(&mut self, has_progress: bool) -> bool {
        let part = Arc::clone(&self.part);
        let capacity = part.core.host.capacity();
        let chores = std::mem::take(&mut self.chores);
        self.is_eager = false;
        let file = part.turnstile().and_then(|file| {
            let path = part.core.place.turnstile();
            turnstile::lock(&file).map_err(|error| refused(&path, "cannot be locked", &error))?;
            Ok(file)
        });
        let file = match file {
            Ok(file) => file,
            Err(error) => return Self::fail(part.queue.take(), &error),
        };
        let mut operations = Vec::new();
        let progress = if has_progress {
            self.progress_at = Instant::now();
            std::mem::take(&mut *part.progress.lock())
                .into_iter()
                .collect()
        } else {
            Vec::new()
        };
        let done = self.transact(&mut operations, &chores, &progress, capacity, &file);
        match done {
            Ok((effects, log)) => self.follow(operations, effects, log.as_ref()),
            Err(trouble) if is_busy(&trouble) => {
                // Something else than a journal has SQLite's lock. What was not taken may still be
                // withdrawn.
                std::thread::sleep(BUSY);
                self.chores = chores;
                self.is_eager = true;
                let mut kept = part.progress.lock();
                for (subject, progress) in progress {
                    kept.entry(subject).or_insert(progress);
                }
                false
            }
            Err(trouble) => {
                let error = trouble.told(&part.core.place);
                Self::fail(operations, &error)
            }
        }
    }

    /// One transaction, with the turnstile held, which it lets go of.
    fn transact(
        &mut self,
        operations: &mut Vec<Operation>,
        chores: &Chores,
        progress: &[(Subject, store::Progress)],
        capacity: [Option<usize>; 3],
        turn: &File,
    ) -> Result<(Effects, Option<Arc<File>>)> {
        let part = Arc::clone(&self.part);
        let _inside = gate().enter();
        let mut disk = part.disk.lock();
        let mut done = self.transaction(&mut disk, operations, chores, progress, capacity);
        if let Err((trouble, effects)) = &done
            && !is_busy(trouble)
        {
            // Once more, with everything opened anew.
            self.undo(&mut disk, effects);
            disk.suspend();
            done = self.transaction(&mut disk, operations, chores, progress, capacity);
        }
        // Fails only for a file that is closed, and it is open.
        _ = turn.unlock();
        let effects = match done {
            Ok(effects) => effects,
            Err((trouble, effects)) => {
                self.undo(&mut disk, &effects);
                return Err(trouble);
            }
        };
        for &slot in &effects.wake {
            disk.files.peers.wake(&part.core.place, slot);
        }
        for &slot in &effects.gone {
            liveness::remove(&part.core.place, slot);
        }
        let log = disk.files.log.clone();
        if effects.is_closed {
            Self::leave(&mut disk, &effects);
        }
        self.fifo.clone_from(&disk.files.fifo);
        Ok((effects, log))
    }

    fn transaction(
        &mut self,
        disk: &mut Disk,
        operations: &mut Vec<Operation>,
        chores: &Chores,
        progress: &[(Subject, store::Progress)],
        capacity: [Option<usize>; 3],
    ) -> std::result::Result<Effects, (Trouble, Box<Effects>)> {
        let nothing = |trouble| (trouble, Box::default());
        let (connection, files) = match disk.open(&self.part.core) {
            Ok(open) => open,
            Err(error) => {
                operations.extend(self.part.queue.take());
                return Err(nothing(Trouble::Other(error)));
            }
        };
        if let Err(error) = store::begin(connection) {
            let trouble = Trouble::Sql(error);
            if !is_busy(&trouble) {
                operations.extend(self.part.queue.take());
            }
            return Err(nothing(trouble));
        }
        operations.extend(self.part.queue.take());
        let mut group = Group::new(
            &self.part,
            connection,
            files,
            &mut self.memory,
            capacity,
            now(),
        );
        let done = group.work(operations, chores, progress);
        let effects = group.effects;
        if let Err(trouble) = done {
            store::roll_back(connection);
            return Err((trouble, Box::new(effects)));
        }
        let Err(error) = store::commit(connection) else {
            return Ok(effects);
        };
        store::roll_back(connection);
        let slot = effects.slot.or(self.memory.slot);
        if self.is_committed(disk, effects.evidence.as_ref(), slot) {
            return Ok(effects);
        }
        Err((Trouble::Sql(error), Box::new(effects)))
    }

    /// Whether a transaction is in the file although its commit has failed. Without evidence it is
    /// one that may be done twice.
    fn is_committed(
        &self,
        disk: &mut Disk,
        evidence: Option<&Evidence>,
        slot: Option<i64>,
    ) -> bool {
        disk.suspend();
        let Ok((connection, _)) = disk.open(&self.part.core) else {
            return false;
        };
        let holds = |claim: &Claim| match slot {
            Some(slot) => store::is_claimed(connection, *claim, slot),
            None => Ok(false),
        };
        let found = match evidence {
            Some(Evidence::Inserted(id)) => store::exists(connection, id),
            Some(Evidence::Claimed(claim)) => holds(claim),
            Some(Evidence::Changed(claim)) => holds(claim).map(|holds| !holds),
            None => Ok(false),
        };
        found.unwrap_or(false)
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

    /// After the last transaction: closes what is open. The liveness lock stays if tasks still run:
    /// it goes with the process.
    fn leave(disk: &mut Disk, effects: &Effects) {
        if let Some(connection) = disk.connection.take() {
            part::close(connection);
        }
        disk.files.fifo = None;
        let alive = disk.files.alive.take();
        if effects.gone.is_empty() {
            std::mem::forget(alive);
        }
    }

    fn fail(operations: Vec<Operation>, error: &Error) -> bool {
        let mut is_closed = false;
        for operation in operations {
            match operation {
                Operation::Submit(_, answer) => answer.give(Err(error.clone())),
                Operation::Change(_, _, answer) => answer.give(Err(error.clone())),
                Operation::Get(_, answer) | Operation::Watch(_, answer) => {
                    answer.give(Err(error.clone()));
                }
                Operation::Cancel(_, answer) | Operation::Stop(_, answer) => {
                    answer.give(Err(error.clone()));
                }
                Operation::Stats(answer) => answer.give(Err(error.clone())),
                Operation::Start(answer) => answer.give(Err(error.clone())),
                Operation::Close(answer) => {
                    is_closed = true;
                    answer.give(Err(error.clone()));
                }
                Operation::Know
                | Operation::Publish(_)
                | Operation::PublishBegan(..)
                | Operation::PublishEnded(..) => {}
            }
        }
        is_closed
    }

    /// Does what follows from a committed group; whether it was the last.
    fn follow(
        &mut self,
        operations: Vec<Operation>,
        mut effects: Effects,
        log: Option<&Arc<File>>,
    ) -> bool {
        let part = Arc::clone(&self.part);
        self.remember(&mut effects);
        effects.set_hunger(&part);
        self.is_eager |= effects.again;
        let level = part.core.settings.sync;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut closes = Vec::new();
        let mut has_submits = false;
        for (operation, said) in operations.into_iter().zip(effects.said) {
            match (operation, said) {
                (Operation::Submit(task, answer), Said::Accepted(accepted)) => {
                    has_submits = true;
                    if level == SyncLevel::Commit || task.sync {
                        waiting.push((answer, accepted));
                    } else {
                        answer.give(Ok(accepted));
                    }
                }
                (Operation::Change(_, _, answer), Said::Changed(changed)) => {
                    answer.give(Ok(changed));
                }
                (Operation::Get(_, answer) | Operation::Watch(_, answer), Said::Found(found)) => {
                    answer.give(Ok(found));
                }
                (
                    Operation::Cancel(_, answer) | Operation::Stop(_, answer),
                    Said::Cancelled(cancelled),
                ) => answer.give(Ok(cancelled)),
                (Operation::Stats(answer), Said::Stats(stats)) => {
                    answer.give(Ok(self.with_bytes(stats)));
                }
                (Operation::Start(answer), _) => answer.give(Ok(())),
                (Operation::Close(answer), _) => closes.push(answer),
                _ => {}
            }
        }
        if let Some(log) = log {
            let has_waiting = !waiting.is_empty();
            if has_waiting {
                part.flusher.answer(log, waiting);
            }
            let is_late = has_submits && !has_waiting || effects.has_ends;
            if is_late && level != SyncLevel::Never {
                part.flusher.note(log);
            }
        }
        let host = &part.core.host;
        if !effects.run.is_empty() {
            host.run(effects.run);
        }
        if !effects.ended.is_empty() {
            host.ended(effects.ended);
        }
        for id in effects.stops {
            host.stop(&id);
        }
        for (level, text) in effects.reports {
            host.report(level, text);
        }
        if effects.is_closed {
            part.flusher.close();
            drop(part.queue.close());
            for answer in closes {
                answer.give(Ok(()));
            }
        }
        effects.is_closed
    }

    fn remember(&mut self, effects: &mut Effects) {
        let memory = &mut self.memory;
        memory.slot = effects.slot.or(memory.slot);
        memory.claims = effects.claims;
        memory.reserved = effects.reserved;
        memory.next_due = effects.next_due;
        for task in effects.stopped.drain(..) {
            memory.running.remove(&task);
        }
        for (task, running) in effects.started.drain(..) {
            memory.running.insert(task, running);
        }
        for task in effects.unwatched.drain(..) {
            memory.watched.remove(&task);
        }
        for (task, watch) in effects.watched.drain(..) {
            let known = memory.watched.entry(task).or_insert(watch);
            if watch == Watch::Asked {
                *known = watch;
            }
        }
        for task in effects.stops_told.drain(..) {
            match memory.running.get_mut(&task) {
                Some(running) => running.is_told = true,
                None => _ = memory.told_plain.insert(task),
            }
        }
        for (id, task) in effects.published.drain(..) {
            memory.published.insert(id, task);
        }
        for id in effects.unpublished.drain(..) {
            if let Some(task) = memory.published.remove(&id) {
                memory.told_plain.remove(&task);
            }
        }
    }
}

/// What a look has to tell the host.
#[derive(Default)]
struct Seen {
    ended: Vec<Row>,
    stops: Vec<String>,
}

impl Chores {
    fn is_empty(&self) -> bool {
        self.dead.is_empty() && self.prune.is_none() && self.park.is_empty() && self.told.is_empty()
    }
}

fn is_busy(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Sql(error)
        if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)))
}

/// For a writer thread that has panicked: nothing is accepted any more.
pub(crate) fn give_up(part: &Part) {
    drop(part.queue.close());
    part.core.host.report(
        Level::Error,
        Error::new(
            ErrorKind::Closed,
            "the journal's thread has failed; no more is accepted",
        )
        .text,
    );
}
