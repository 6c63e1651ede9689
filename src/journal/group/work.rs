//! One transaction of the writer thread: a group of operations, claims, takeovers.

use std::sync::Arc;

use log::Level;

use crate::api::jobs::Ask;
use crate::api::operation::{Operation, Plain, Said, Step};
use crate::api::record::{Answered, Query, Sample};
use crate::api::{Cancelled, Change, Changed, Claim, DeadLetter, Found, Outcome, Pool, State};
use crate::file::schema;
use crate::file::trouble::Result;
use crate::group::transaction::{Evidence, Group};
use crate::group::{
    commands, limits, lists, manage, others, pauses, periodic, permits, poison, prune, record,
};
use crate::process::chores::{Chores, Prune};
use crate::process::memory::{Running, Watch, Watched};
use crate::process::part::Subject;
use crate::rows::kept::{self, Checkpoints};
use crate::rows::store::{self, End, Ready};
use crate::rows::{counts, events};

impl Group<'_> {
    /// Does it all. `progress` is what there is to write of it.
    pub(crate) fn work(
        &mut self,
        operations: &[Operation],
        checkpoints: &Checkpoints,
        chores: &Chores,
        progress: &[(Subject, store::Progress)],
        samples: &[Sample],
    ) -> Result<()> {
        self.write_checkpoints(checkpoints)?;
        if self.memory.wants_claims {
            self.start()?;
        }
        let mut said: Vec<Option<Said>> = operations.iter().map(|_| None).collect();
        for (place, operation) in operations.iter().enumerate() {
            if operation.is_first() {
                said[place] = Some(self.operate(operation)?);
            }
        }
        self.do_chores(chores)?;
        self.claim()?;
        for (place, operation) in operations.iter().enumerate() {
            if said[place].is_none() {
                said[place] = Some(self.operate(operation)?);
            }
        }
        self.effects.said = said.into_iter().flatten().collect();
        if self.advance()? && self.is_claiming() {
            self.effects.is_eager = true;
        }
        self.write_progress(progress)?;
        self.write_samples(samples)?;
        self.wake_claimers()?;
        self.load_ended()
    }

    fn operate(&mut self, operation: &Operation) -> Result<Said> {
        Ok(match operation {
            Operation::Submit(..)
            | Operation::Periodic(Ask::Tick(..))
            | Operation::Permit(crate::api::permits::Ask::Enter(..))
                if self.is_outdated =>
            {
                Said::Refused(schema::outdated(
                    &self.part.core.place,
                    self.part.core.layout,
                ))
            }
            Operation::Submit(tasks, origin, _) => {
                Said::Submitted(self.submit_all(tasks, *origin)?)
            }
            Operation::Change(claim, change, _) => Said::Changed(self.change(*claim, change)?),
            Operation::Step(claim, step, _) => Said::Changed(self.step(*claim, step)?),
            Operation::Get(id, _) => {
                let slot = self.effects.slot.or(self.memory.slot);
                Said::Found(store::find(self.connection, id, slot)?.0)
            }
            Operation::Watch(id, _) => Said::Found(self.watch(id)?),
            Operation::Cancel(id, _) => Said::Cancelled(self.cancel(id, false)?),
            Operation::Stop(id, _) => Said::Cancelled(self.cancel(id, true)?),
            Operation::Version(_) => {
                Said::Version(lists::version(self.connection, self.files.openings)?)
            }
            Operation::Stats(_) => Said::Stats(counts::stats(self.connection)?),
            Operation::Place(..)
            | Operation::List(..)
            | Operation::Classes(..)
            | Operation::Lacking(..)
            | Operation::Names(_)
            | Operation::Paused(_) => {
                let slot = self.effects.slot.or(self.memory.slot);
                manage::read(
                    self.connection,
                    &self.part.core.settings.app,
                    slot,
                    operation,
                )?
            }
            Operation::Retry(id, _) => Said::Retried(self.retry(id)?),
            Operation::Pause(name, _) => {
                self.pause(name.as_deref())?;
                Said::Nothing
            }
            Operation::Resume(name, _) => Said::More(self.resume(name.as_deref())?),
            Operation::Prune(filter, below, _) => {
                let (count, next) = self.forget(filter, *below)?;
                Said::Pruned(count, next)
            }
            Operation::Periodic(ask) => Said::Periodic(self.answer(ask)?),
            Operation::Permit(ask) => Said::Permit(self.permit(ask)?),
            Operation::Command(ask) => Said::Command(self.command(ask)?),
            Operation::Look(query, _) => Said::Answered(self.look(query)?),
            Operation::Show(at, text) => {
                self.show(*at, text);
                Said::Nothing
            }
            Operation::Hear(told) => {
                self.note_told(told)?;
                Said::Nothing
            }
            Operation::Publish(plain) => {
                self.publish(plain)?;
                Said::Nothing
            }
            Operation::PublishBegan(id, at) => {
                if let Some(task) = self.published(id) {
                    let slot = self.slot()?;
                    let attempt = store::publish_began(self.connection, task, slot, *at)?;
                    if let Some(attempt) = attempt.filter(|attempt| *attempt > 1) {
                        let text = format!("attempt {attempt}");
                        self.event(task, events::STARTED, Some(&text))?;
                    }
                }
                Said::Nothing
            }
            Operation::PublishEnded(id, outcome) => {
                self.write_last_progress(Subject::Plain(id.clone()))?;
                self.publish_ended(id, outcome)?;
                Said::Nothing
            }
            Operation::Know => {
                if self.effects.claims {
                    self.know()?;
                }
                Said::Nothing
            }
            Operation::Start(_) => {
                self.start()?;
                Said::Nothing
            }
            Operation::Close(_) => {
                self.close()?;
                Said::Nothing
            }
        })
    }

    // --- Processes ------------------------------------------------------------------

    fn start(&mut self) -> Result<()> {
        if !self.effects.claims {
            let slot = self.slot()?;
            store::set_claims(self.connection, slot, true)?;
            self.effects.claims = true;
        }
        if self.memory.known.is_empty() {
            self.know()?;
        }
        Ok(())
    }

    /// Notes which functions this process can run, and looks again at those that were parked.
    fn know(&mut self) -> Result<()> {
        let slot = self.slot()?;
        let names = self.part.functions.lock().clone();
        for name in names {
            let function = self.function(&name)?;
            if self.memory.known.insert(function) {
                store::add_known(self.connection, slot, function)?;
                self.has_ready |= store::revive(self.connection, function)? > 0;
            }
        }
        Ok(())
    }

    /// The last transaction of a process: what still runs is left to a takeover, and counts as no death.
    fn close(&mut self) -> Result<()> {
        self.effects.is_closed = true;
        let Some(slot) = self.effects.slot.or(self.memory.slot) else {
            return Ok(());
        };
        for task in store::published_by(self.connection, slot)? {
            let error = poison::error("WorkerDied", "the process ended before the task did");
            self.end(task, State::Failed, Some(&error))?;
        }
        store::unreserve(self.connection, slot)?;
        // Those of code that still runs go with the process.
        let lanes = permits::remove_all(self.connection, slot, true)?;
        self.touch_lanes(lanes);
        let has_permits = permits::has_any(self.connection, slot)?;
        record::forget(self.connection, slot)?;
        if store::interrupt(self.connection, slot)? > 0 || has_permits {
            store::set_claims(self.connection, slot, false)?;
        } else {
            store::remove_process(self.connection, slot)?;
            self.effects.gone.push(slot);
        }
        Ok(())
    }

    fn do_chores(&mut self, chores: &Chores) -> Result<()> {
        let core = Arc::clone(&self.part.core);
        for process in &chores.dead {
            // What a restart of the machine has ended is no task's fault.
            let counts = process.boot == core.boot;
            let application = self.application()?;
            let allowed = core.settings.deaths;
            let (connection, now) = (self.connection, self.now);
            let done = poison::take_over(connection, process, counts, application, allowed, now)?;
            let Some(done) = done else { continue };
            // One that has closed the journal left its tasks.
            if process.claims && counts {
                record::lose(connection, process, application, &done.tasks, now)?;
            }
            for task in done.again {
                let text = format!("process {}", process.pid);
                self.event(task, events::DIED, Some(&text))?;
            }
            self.has_ready |= done.has_ready;
            self.touch_lanes(done.lanes);
            for task in done.ended {
                self.tell(task)?;
            }
            for letter in done.dead {
                self.bury(letter);
            }
            self.effects.gone.push(process.slot);
        }
        if let Some(prune) = chores.prune {
            self.prune(prune)?;
        }
        for &function in &chores.park {
            self.park(function)?;
        }
        if chores.release {
            self.release()?;
        }
        for &task in &chores.misfits {
            // What is claimed in this group comes to this process, and not to the one that has parked it.
            self.has_ready |= store::revive_one(self.connection, task)?;
        }
        if let Some(slot) = self.memory.slot {
            for &task in &chores.told {
                store::unwatch(self.connection, task, slot)?;
            }
        }
        Ok(())
    }

    fn prune(&mut self, prune: Prune) -> Result<()> {
        let Prune {
            since, long_since, ..
        } = prune;
        prune::prune(self.connection, since, long_since, prune.surplus)?;
        limits::forget(self.connection, self.now)?;
        periodic::prune(self.connection, long_since)?;
        commands::prune(self.connection, self.now)?;
        let application = self.application()?;
        for parked in prune::long_parked(self.connection, application, long_since)? {
            let message = format!("no process could run it: {}", parked.reason);
            let error = poison::error("WorkerDied", &message);
            self.end(parked.sequence, State::Dead, Some(&error))?;
            let text = format!(
                "task {} has been parked for 30 days and is a dead letter: {}",
                parked.id, parked.reason
            );
            self.effects.reports.push((Level::Error, text));
            self.effects.dead.push(DeadLetter {
                id: parked.id,
                function: parked.function,
                deaths: parked.deaths,
                error,
            });
        }
        if prune.vacuum {
            prune::vacuum(self.connection)?;
        }
        Ok(())
    }

    fn park(&mut self, function: i64) -> Result<()> {
        let application = self.application()?;
        let name = store::function_name(self.connection, function)?.unwrap_or_default();
        let reason = format!("no process knows the function {name}");
        let mut count =
            store::park_unknown(self.connection, application, function, &reason, self.now)?;
        if count > 0 {
            count += limits::park_blocked(self.connection, function, &reason, self.now)?;
            self.touch_parked(function)?;
            let text = format!(
                "{count} tasks of {name} are parked: no process has known this function for a minute; they \
                 are run when one does"
            );
            self.effects.reports.push((Level::Warn, text));
        }
        Ok(())
    }

    // --- Ends -----------------------------------------------------------------------

    /// Ends a task whatever it does.
    fn end(&mut self, task: i64, state: State, error: Option<&str>) -> Result<()> {
        let end = End {
            state,
            result: None,
            unkept: None,
            error,
        };
        store::end_any(self.connection, task, &end, self.now)?;
        self.touch(task)?;
        self.tell(task)
    }

    /// Tells of a task that is a dead letter for the processes that it has ended.
    fn bury(&mut self, letter: DeadLetter) {
        let text = format!(
            "{} has ended {} processes and is not run again: task {} is a dead letter",
            letter.function, letter.deaths, letter.id
        );
        self.effects.reports.push((Level::Error, text));
        self.effects.dead.push(letter);
    }

    /// Tells all that wait for a task that it has ended, and the tasks that follow it.
    fn tell(&mut self, task: i64) -> Result<()> {
        self.notify(task)?;
        self.go_on(task, None)
    }

    /// Reads what has ended and is watched here, as it is at the end of the group.
    fn load_ended(&mut self) -> Result<()> {
        let Some(slot) = self.effects.slot.or(self.memory.slot) else {
            return Ok(());
        };
        let mut tasks = std::mem::take(&mut self.deliver);
        tasks.sort_unstable();
        tasks.dedup();
        for task in tasks {
            let row = store::row(self.connection, task, Some(slot))?;
            // It may have been made ready again in this very group.
            if row.as_ref().is_none_or(|row| row.state.is_end()) {
                store::unwatch(self.connection, task, slot)?;
                self.effects.ended.extend(row);
                self.effects.unwatched.push(task);
            }
        }
        Ok(())
    }

    fn change(&mut self, claim: Claim, change: &Change) -> Result<Changed> {
        self.write_last_progress(Subject::Claim(claim))?;
        let known = self.memory.read(claim).zip(self.memory.slot);
        let Some((claim, slot)) = known else {
            return Ok(self.fenced(claim));
        };
        let state = match change {
            Change::End(outcome) => {
                let end = End::from(outcome);
                let (task, epoch) = (claim.task, claim.epoch);
                store::end(self.connection, task, epoch, slot, &end, self.now)?.then_some(end.state)
            }
            Change::Died { error } => self.died(claim, slot, error)?,
            other => store::put_back(self.connection, claim, slot, other, self.now)?,
        };
        let running = self.memory.running.get(&claim.task);
        let is_first = !self.effects.stopped.contains(&claim.task);
        let running = running
            .filter(|it| it.epoch == claim.epoch && is_first)
            .copied();
        let is_watched = running.is_some_and(|it| it.is_watched);
        if running.is_none_or(|it| it.is_limited) {
            self.touch(claim.task)?;
        }
        if let Some(running) = running {
            self.flight[running.pool as usize] -= 1;
            self.suspects -= usize::from(running.is_suspect);
            self.effects.stopped.push(claim.task);
        }
        let Some(state) = state else {
            return Ok(self.fenced(claim));
        };
        self.note(|| Evidence::Changed(claim));
        if matches!(change, Change::Park { .. }) {
            self.effects.tried.push(claim.task);
        }
        if state.is_end() {
            self.tell(claim.task)?;
            if !matches!(change, Change::End(_)) && is_watched {
                self.deliver.push(claim.task);
            }
            return Ok(Changed::Done);
        }
        if is_watched {
            let id = store::id(self.connection, claim.task)?;
            self.effects
                .watched
                .push((claim.task, Watched::implied(id)));
        }
        let attempt = format!("attempt {}", claim.attempt);
        match change {
            Change::Again { why, .. } => {
                let text = why.as_ref().map(|why| format!("{attempt}\n{why}"));
                let text = text.as_ref().unwrap_or(&attempt);
                self.event(claim.task, events::RETRYING, Some(text))?;
            }
            Change::PutBack => self.event(claim.task, events::PUT_BACK, Some(&attempt))?,
            Change::Park { reason } => self.event(claim.task, events::PARKED, Some(reason))?,
            Change::Died { .. } => self.event(claim.task, events::DIED, Some(&attempt))?,
            Change::End(_) => {}
        }
        match (state, change) {
            (State::Scheduled, Change::Again { due, .. }) => self.schedule(*due),
            _ => self.has_ready = true,
        }
        Ok(Changed::Done)
    }

    /// Counts a death that is known to be this task's; the state that it is in then.
    fn died(&mut self, claim: Claim, slot: i64, error: &str) -> Result<Option<State>> {
        let allowed = self.part.core.settings.deaths;
        let died = poison::died(self.connection, claim, slot, allowed, error, self.now)?;
        Ok(died.map(|(state, letter)| {
            if state == State::Dead {
                self.bury(letter);
            }
            state
        }))
    }

    fn write_checkpoints(&mut self, checkpoints: &Checkpoints) -> Result<()> {
        let Some(slot) = self.memory.slot else {
            return Ok(());
        };
        for (claim, place, value) in checkpoints.each() {
            if let Some(claim) = self.memory.read(claim) {
                kept::set_checkpoint(self.connection, claim, slot, place, value)?;
                self.effects.has_to_sync = true;
            }
        }
        Ok(())
    }

    fn step(&mut self, claim: Claim, step: &Step) -> Result<Changed> {
        let known = self.memory.read(claim).zip(self.memory.slot);
        if let Some((claim, slot)) = known
            && kept::add_step(self.connection, claim, slot, &step.name, &step.result)?
        {
            self.effects.has_to_sync = true;
            return Ok(Changed::Done);
        }
        Ok(self.fenced(claim))
    }

    fn fenced(&mut self, claim: Claim) -> Changed {
        let text = format!(
            "the outcome of task {} is dropped: this process does not have it any more (attempt {})",
            claim.task, claim.attempt
        );
        self.effects.reports.push((Level::Error, text));
        Changed::Fenced
    }

    fn cancel(&mut self, id: &str, stop: bool) -> Result<Cancelled> {
        let Some(found) = store::standing(self.connection, id)? else {
            let (found, _) = store::find(self.connection, id, None)?;
            let is_gone = matches!(found, Found::Gone);
            return Ok(if is_gone {
                Cancelled::Ended
            } else {
                Cancelled::Unknown
            });
        };
        if found.state.is_end() {
            return Ok(Cancelled::Ended);
        }
        if found.state != State::Running {
            self.leave(found.sequence)?;
            self.end(found.sequence, State::Cancelled, None)?;
            return Ok(Cancelled::Yes);
        }
        if stop {
            store::ask_to_stop(self.connection, found.sequence)?;
            self.event(found.sequence, events::STOPPING, None)?;
            if found.owner == self.memory.slot {
                self.effects.stops.push(id.to_owned());
                self.effects.stops_told.push(found.sequence);
            } else {
                self.effects.wake.extend(found.owner);
            }
        }
        Ok(Cancelled::Running)
    }

    // --- Claims ---------------------------------------------------------------------

    /// Claims what this process has workers for.
    fn claim(&mut self) -> Result<()> {
        // The rate of a lane may be what a permit of this process waits for.
        if !self.is_claiming() && !self.memory.permits.are_waiting() {
            return Ok(());
        }
        let application = self.application()?;
        if self.effects.next_due.is_some_and(|due| due <= self.now) {
            let count = store::promote(self.connection, application, self.now)?;
            self.has_ready |= count > 0;
            self.touch_due(application)?;
            self.effects.next_due = store::next_due(self.connection, application)?;
        }
        self.advance()?;
        if !self.is_claiming() {
            return Ok(());
        }
        if pauses::is_all(self.paused()?) || self.suspects > 0 || self.claim_suspect(application)? {
            return Ok(());
        }
        for pool in Pool::ALL {
            if self.capacity[pool as usize].is_some() {
                self.claim_pool(application, pool)?;
            }
        }
        self.may_start = true;
        Ok(())
    }

    /// Claims a suspect if nothing else is in flight, or reserves one: no more is claimed then.
    fn claim_suspect(&mut self, application: i64) -> Result<bool> {
        let slot = self.slot()?;
        let is_idle = self.flight == [0; 3];
        loop {
            let memory = &*self.memory;
            let capacity = self.capacity;
            let paused = self.paused.as_deref().unwrap_or_default();
            let may_run = |function: i64, pool: Pool| {
                memory.known.contains(&function)
                    && !paused.contains(&function)
                    && capacity[pool as usize].is_some()
            };
            let found = store::suspect(self.connection, application, slot, is_idle, may_run)?;
            let Some(ready) = found else {
                self.effects.reserved = None;
                return Ok(false);
            };
            let allowed = self.part.core.settings.deaths;
            if let Some(letter) = poison::condemned(self.connection, ready.sequence, allowed)? {
                self.end(ready.sequence, State::Dead, Some(&letter.error))?;
                self.bury(letter);
                continue;
            }
            if is_idle {
                if !self.begin(&ready, true)? {
                    continue;
                }
                self.effects.reserved = None;
            } else if ready.is_limited && self.admit(ready.sequence)?.is_none() {
                continue;
            } else {
                store::reserve(self.connection, ready.sequence, slot)?;
                self.effects.reserved = Some(ready.sequence);
            }
            return Ok(true);
        }
    }

    fn claim_pool(&mut self, application: i64, pool: Pool) -> Result<()> {
        loop {
            let free = self.free(pool);
            if !self.set_aside(application, pool, free + 1)? {
                self.left[pool as usize] = true;
                self.effects.is_eager = true;
                return Ok(());
            }
            // One more than there is room for tells whether any are left.
            let known = &self.memory.known;
            let paused = self.paused.as_deref().unwrap_or_default();
            let is_known = |function| known.contains(&function) && !paused.contains(&function);
            let found = store::ready(self.connection, application, pool, free + 1, is_known)?;
            let mut has_dropped = false;
            for ready in found.iter().take(free) {
                has_dropped |= !self.begin(ready, false)?;
            }
            self.left[pool as usize] = found.len() > free;
            if self.has_blocked_many() {
                self.effects.is_eager = true;
                return Ok(());
            }
            if !(has_dropped && self.left[pool as usize]) {
                self.effects.is_hungry |= self.left[pool as usize];
                return Ok(());
            }
        }
    }

    /// Claims a ready task, or ends it if it is too late for it; whether it is claimed.
    fn begin(&mut self, ready: &Ready, is_suspect: bool) -> Result<bool> {
        let task = ready.sequence;
        if ready.stop_requested {
            self.end(task, State::Cancelled, None)?;
            return Ok(false);
        }
        if ready.expires.is_some_and(|expires| expires <= self.now) {
            let error = poison::error("TaskExpired", "the task expired before it began");
            self.end(task, State::Failed, Some(&error))?;
            return Ok(false);
        }
        let slot = self.slot()?;
        let terms = if ready.is_limited {
            let Some(terms) = self.admit(task)? else {
                self.event(task, events::HELD, Some(events::LANE))?;
                return Ok(false);
            };
            Some(terms)
        } else {
            None
        };
        let claimed = store::claim(self.connection, task, slot, self.now)?;
        let Some((mut claimed, submitter)) = claimed else {
            return Ok(false);
        };
        if let Some(terms) = terms {
            self.has_started(terms)?;
        }
        let watched = self.memory.watched.get(&task).map(|it| it.why);
        if watched != Some(Watch::Asked) {
            self.effects.unwatched.push(task);
        }
        self.flight[claimed.pool as usize] += 1;
        self.suspects += usize::from(is_suspect);
        self.note(|| Evidence::Claimed(claimed.claim));
        self.effects.started.push((
            task,
            Running {
                epoch: claimed.claim.epoch,
                pool: claimed.pool,
                is_suspect,
                is_limited: ready.is_limited,
                is_watched: watched.is_some() || submitter == Some(slot),
                is_told: false,
            },
        ));
        if claimed.claim.epoch > 1 {
            let attempt = format!("attempt {}", claimed.claim.attempt);
            self.event(task, events::STARTED, Some(&attempt))?;
            claimed.kept = kept::kept(self.connection, task)?;
        }
        claimed.claim = self.memory.sign(claimed.claim);
        let waiting = self.memory.waiting.last();
        *waiting = waiting.saturating_sub(1);
        self.effects.run.push(claimed);
        Ok(true)
    }

    /// Wakes the other processes that claim if there is work that this one leaves.
    fn wake_claimers(&mut self) -> Result<()> {
        let is_left = !self.is_claiming()
            || self.left.contains(&true)
            || self.lanes.has_others
            || !self.may_start;
        if self.has_ready && is_left {
            let slot = self.effects.slot.or(self.memory.slot);
            self.effects
                .wake
                .extend(store::claimers(self.connection, slot)?);
        }
        Ok(())
    }

    // --- Watching and publishing ----------------------------------------------------

    fn watch(&mut self, id: &str) -> Result<Found> {
        let slot = self.slot()?;
        let (found, sequence) = store::find(self.connection, id, Some(slot))?;
        if let (Found::Row(row), Some(sequence)) = (&found, sequence)
            && !row.state.is_end()
        {
            store::watch(self.connection, sequence, slot)?;
            let watched = Watched {
                why: Watch::Asked,
                id: id.to_owned(),
            };
            self.effects.watched.push((sequence, watched));
        }
        Ok(found)
    }

    fn published(&self, id: &str) -> Option<i64> {
        let new = self.effects.published.iter().rev().find(|(it, _)| it == id);
        new.map(|(_, task)| *task)
            .or_else(|| self.memory.published.get(id).copied())
    }

    fn publish(&mut self, plain: &Plain) -> Result<()> {
        let function = self.function(&plain.function)?;
        let task = store::Published {
            id: &plain.id,
            application: self.application()?,
            function,
            owner: self.slot()?,
            submitted_at: plain.submitted_at,
            began: plain.began,
        };
        prune::give_way(self.connection, &plain.id, task.application)?;
        if let Some(sequence) = store::publish(self.connection, &task)? {
            self.effects.published.push((plain.id.clone(), sequence));
        }
        Ok(())
    }

    fn publish_ended(&mut self, id: &str, outcome: &Outcome) -> Result<()> {
        let Some(task) = self.published(id) else {
            return Ok(());
        };
        let slot = self.slot()?;
        if store::end(
            self.connection,
            task,
            1,
            slot,
            &End::from(outcome),
            self.now,
        )? {
            self.tell(task)?;
        }
        self.effects.unpublished.push(id.to_owned());
        Ok(())
    }

    /// Writes the progress of a task that is about to end, which is not written any more then.
    fn write_last_progress(&mut self, subject: Subject) -> Result<()> {
        let last = self.part.progress.lock().remove(&subject);
        match last {
            Some(last) => self.write_progress(&[(subject, last)]),
            None => Ok(()),
        }
    }

    fn write_progress(&mut self, progress: &[(Subject, store::Progress)]) -> Result<()> {
        let Some(slot) = self.effects.slot.or(self.memory.slot) else {
            return Ok(());
        };
        for (subject, progress) in progress {
            let claim = match subject {
                Subject::Claim(claim) => {
                    let claim = self.memory.read(*claim);
                    claim.map(|claim| (claim.task, claim.epoch))
                }
                Subject::Plain(id) => self.published(id).map(|task| (task, 1)),
            };
            if let Some((task, epoch)) = claim {
                store::set_progress(self.connection, task, epoch, slot, progress)?;
            }
        }
        Ok(())
    }

    // --- Pages ----------------------------------------------------------------------

    /// Answers a page, in which others may be asked.
    fn look(&mut self, query: &Query) -> Result<Answered> {
        let slot = self.effects.slot.or(self.memory.slot);
        let core = &self.part.core;
        let app = &core.settings.app;
        let found = record::answer(self.connection, &core.place, app, slot, query)?;
        others::ask(self.files, &core.place, &found);
        Ok(found)
    }

    fn show(&self, at: i64, text: &str) {
        if let Some(slot) = self.effects.slot.or(self.memory.slot) {
            others::write(&self.part.core.place, slot, at, text);
        }
    }
}
