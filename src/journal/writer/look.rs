//! What the writer thread does when another process calls, and each second: takes in what others
//! have done, and finds what is to be done about it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use rusqlite::Connection;

use crate::api::commands::Command;
use crate::api::{Error, ErrorKind, Pool, Row};
use crate::file::filesystem::{Identity, refused};
use crate::file::trouble::{Result, Trouble};
use crate::file::{liveness, schema, transaction};
use crate::group::commands::{self, Standing};
use crate::group::{limits, pauses, periodic, prune};
use crate::process::chores::Prune;
use crate::process::part::Files;
use crate::rows::store;
use crate::shared::clock::now;
use crate::writer::state::{Writer, lost_row};

/// How often an idle process looks at the others.
const LOOK: Duration = Duration::from_secs(1);
/// And when there is more to prune.
const SOON: Duration = Duration::from_millis(50);
/// How often ended rows are counted, and functions that no process knows looked for.
const SELDOM: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// After this long without a process that knows its function a task is parked.
const UNKNOWN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });
/// Dead letters and parked tasks are kept so long, in microseconds.
const KEPT: i64 = 30 * 24 * 3600 * 1_000_000;

/// What a look has to tell the host.
#[derive(Default)]
struct Seen {
    ended: Vec<Row>,
    stops: Vec<String>,
    /// Permits that others have granted.
    granted: Vec<i64>,
    commands: Vec<Command>,
    reports: Vec<(Level, String)>,
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Writer {
    /// Looks for what others have done and left, without a turn. `is_look`: it is the look of each
    /// second.
    pub(crate) fn inspect(&mut self, is_look: bool) {
        let capacity = self.part.core.host.capacity();
        let part = Arc::clone(&self.part);
        if is_look {
            self.next_look = Instant::now() + LOOK;
            if !self.is_file_there() {
                // The next turn opens what is there now, or makes it.
                self.is_eager = true;
                return;
            }
        }
        let seen = Self::with(&part, |connection, files| {
            self.look_about(connection, files, is_look, capacity)
        });
        match seen {
            Ok(seen) => {
                let host = &self.part.core.host;
                if !seen.ended.is_empty() {
                    host.ended(seen.ended);
                }
                for id in seen.stops {
                    host.stop(&id);
                }
                for command in seen.commands {
                    host.command(command);
                }
                for (level, text) in seen.reports {
                    host.report(level, text);
                }
                for task in seen.granted {
                    self.memory.permits.grant(task);
                }
            }
            Err(trouble) => {
                let error = trouble.told(&self.part.core.place);
                self.report_once(&error);
            }
        }
    }

    /// Whether the files are those that this process has open. Lets go of them if not.
    pub(crate) fn is_file_there(&mut self) -> bool {
        let part = Arc::clone(&self.part);
        let place = &part.core.place;
        let _inside = crate::shared::gate::gate().enter();
        let mut disk = part.disk.lock();
        let is_same = |known: Option<Identity>, path: &Path| match (known, Identity::of(path)) {
            (Some(known), Ok(found)) => known == found,
            // What cannot be looked at is not known to be gone.
            (Some(_), Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (None, _) => true,
        };
        let turnstile = disk
            .files
            .turnstile
            .as_deref()
            .and_then(|it| Identity::of_file(it).ok());
        if !is_same(turnstile, &place.turnstile()) {
            // SQLite's lock keeps the file safe while some processes wait at another turnstile.
            disk.files.turnstile = None;
        }
        if is_same(disk.files.identity, &place.database) {
            return true;
        }
        disk.suspend();
        false
    }

    fn look_about(
        &mut self,
        connection: &Connection,
        files: &mut Files,
        is_look: bool,
        capacity: [Option<usize>; 3],
    ) -> Result<Seen> {
        let mut seen = Seen::default();
        let Some(slot) = self.memory.slot else {
            return Ok(seen);
        };
        if files.is_fresh {
            // It may be another file; the next turn finds out, and then comes another look.
            self.is_eager = true;
            self.is_called = true;
            return Ok(seen);
        }
        let claims = self.memory.claims && !self.part.is_leaving();
        let is_seldom = is_look && self.seldom_at.elapsed() >= SELDOM;
        let version = transaction::data_version(connection)?;
        let is_changed = !is_look || files.data_version != Some(version);
        if is_changed {
            files.data_version = Some(version);
            self.hear(connection, slot, &mut seen)?;
            self.check_version(connection, &mut seen)?;
        }
        // What this process has changed itself it knows. But tasks may be left since workers were
        // busy with others.
        let has_left = self.is_hungry || self.memory.reserved.is_some();
        if claims && (is_changed || is_seldom || has_left) {
            self.look_for_work(connection, slot, capacity)?;
        } else if is_changed
            && self.memory.permits.are_waiting()
            && let Some(application) = self.memory.application
        {
            self.memory.next_due = store::next_due(connection, application)?;
        }
        if !is_look {
            return Ok(seen);
        }
        self.look_at_others(connection, files, slot)?;
        if is_seldom {
            self.seldom_at = Instant::now();
            self.mend(files, slot, &mut seen)?;
            self.miss(connection, &mut seen)?;
        }
        if claims && (is_seldom || self.is_pruning) {
            self.look_for_chores(connection)?;
        }
        Ok(seen)
    }

    /// Takes in what others have told this process.
    fn hear(&mut self, connection: &Connection, slot: i64, seen: &mut Seen) -> Result<()> {
        for task in store::told(connection, slot)? {
            if self.memory.permits.waits(task) {
                seen.granted.push(task);
                continue;
            }
            let row = store::row(connection, task, Some(slot))?;
            if row.as_ref().is_some_and(|row| !row.state.is_end()) {
                // It has been made ready again since, or is a permit.
                continue;
            }
            if self.memory.watched.remove(&task).is_some() {
                seen.ended.extend(row);
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
        self.hear_commands(connection, slot, seen)
    }

    /// Takes in commands for this process, and the answers to its own.
    fn hear_commands(&mut self, connection: &Connection, slot: i64, seen: &mut Seen) -> Result<()> {
        let app = &self.part.core.settings.app;
        let memory = &mut self.memory;
        seen.commands = commands::untaken(connection, app, slot, memory.heard)?;
        if let Some(last) = seen.commands.last() {
            memory.heard = last.number;
        }
        let mut answers = Vec::new();
        for &number in memory.asked.keys() {
            match commands::standing(connection, number)? {
                Standing::Open => {}
                Standing::Done(outcome) => answers.push((number, Some(outcome))),
                Standing::Gone => answers.push((number, None)),
            }
        }
        for (number, told) in answers {
            if let Some(answer) = memory.asked.remove(&number) {
                answer.give(Ok(told));
            }
        }
        Ok(())
    }

    /// Tasks may have been forgotten before this process has heard of their ends, by hand or while it
    /// was stopped.
    fn miss(&mut self, connection: &Connection, seen: &mut Seen) -> Result<()> {
        let mut gone = Vec::new();
        for (&task, watched) in &self.memory.watched {
            if !store::has(connection, task, &watched.id)? {
                gone.push(task);
            }
        }
        for task in gone {
            let watched = self.memory.watched.remove(&task);
            let message = "the task was forgotten before this process has heard of its end";
            seen.ended
                .extend(watched.map(|it| lost_row(it.id, message)));
        }
        Ok(())
    }

    /// Newer code may have changed the layout beyond what this code can write to.
    fn check_version(&mut self, connection: &Connection, seen: &mut Seen) -> Result<()> {
        let core = &self.part.core;
        match schema::check_version(&core.place, core.layout, connection) {
            Err(error) if error.kind == ErrorKind::Newer => {
                if !std::mem::replace(&mut self.is_outdated, true) {
                    seen.reports.push((Level::Error, error.text));
                }
                Ok(())
            }
            other => Ok(other?),
        }
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
        let paused = pauses::paused(connection, application)?;
        if pauses::is_all(&paused) {
            return Ok(());
        }
        let memory = &self.memory;
        let known = |function: i64| memory.known.contains(&function) && !paused.contains(&function);
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

    /// Finds the dead.
    fn look_at_others(
        &mut self,
        connection: &Connection,
        files: &mut Files,
        slot: i64,
    ) -> Result<()> {
        let processes = store::processes(connection)?;
        let is_there = |slot| processes.iter().any(|process| process.slot == slot);
        files.peers.keep(is_there);
        if !is_there(slot) {
            // Taken for dead, after its lock was removed or an old file put back.
            files.is_fresh = true;
            self.is_eager = true;
            return Ok(());
        }
        // What a dead process had may be what a permit of this one waits for.
        if !self.memory.claims && !self.memory.permits.are_waiting() {
            return Ok(());
        }
        let place = &self.part.core.place;
        for process in processes {
            if process.slot == slot {
                continue;
            }
            let path = place.alive(process.slot);
            let is_dead = liveness::is_dead(place, process.slot, process.pid)
                .map_err(|error| Trouble::Other(refused(&path, "cannot be looked at", &error)))?;
            if is_dead {
                self.chores.dead.push(process);
            }
        }
        Ok(())
    }

    /// Makes this process's files anew if somebody has removed them: without its lock it would look
    /// dead.
    fn mend(&mut self, files: &mut Files, slot: i64, seen: &mut Seen) -> Result<()> {
        let place = &self.part.core.place;
        let path = place.alive(slot);
        if path.exists() {
            return Ok(());
        }
        let failed = |error| Trouble::Other(refused(&path, "cannot be locked", &error));
        place.make_folder().map_err(Trouble::Other)?;
        if let Some(alive) = liveness::claim(place, slot).map_err(failed)? {
            files.alive = Some(alive);
            files.fifo = Some(Arc::new(
                crate::file::wakeup::make(place, slot).map_err(failed)?,
            ));
            self.fifo.clone_from(&files.fifo);
        }
        let text = format!(
            "{}: somebody has removed this file, which tells that this process is alive; it is made \
             anew",
            path.display()
        );
        seen.reports.push((Level::Error, text));
        Ok(())
    }

    fn look_for_chores(&mut self, connection: &Connection) -> Result<()> {
        let core = Arc::clone(&self.part.core);
        let now = now();
        let mut prune = Prune {
            since: now.saturating_sub(micros(core.settings.keep)),
            long_since: now.saturating_sub(KEPT),
            surplus: 0,
            vacuum: false,
        };
        let count = prune::count_ended(connection)?;
        prune.surplus = count.saturating_sub(core.settings.limit);
        prune.vacuum = prune::has_much_room(connection)?;
        let application = self.memory.application;
        let resumed = application.map(|it| pauses::resumed(connection, it));
        self.chores.release = resumed.transpose()?.is_some_and(|it| !it.is_empty());
        self.is_pruning = prune.surplus > 0
            || prune.vacuum
            || prune::has_old(connection, prune.since, prune.long_since)?
            || periodic::has_old(connection, prune.long_since)?
            || commands::has_old(connection, now)?
            || application.map_or(Ok(false), |it| {
                prune::has_long_parked(connection, it, prune.long_since)
            })?
            || limits::has_old(connection, now)?;
        if self.is_pruning {
            self.chores.prune = Some(prune);
        }
        self.is_pruning |= self.chores.release;
        if self.is_pruning {
            self.next_look = Instant::now() + SOON;
        }
        if let Some(application) = application {
            let memory = &self.memory;
            let is_new =
                |task, function| memory.known.contains(&function) && !memory.tried.contains(&task);
            self.chores.misfits = store::misfits(connection, application, is_new)?;
        }
        self.look_for_unknown(connection)
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

    /// Reports an error unless it is the one that was reported last.
    pub(crate) fn report_once(&mut self, error: &Error) {
        if self.last_error.as_ref() != Some(error) {
            self.last_error = Some(error.clone());
            self.part.core.host.report(Level::Error, error.text.clone());
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/unit/parking.rs"]
#[allow(clippy::unwrap_used, reason = "a failed test has to panic")]
mod parking;
