//! Accepting tasks: one, or several in one submission.

use std::collections::HashSet;
use std::time::Duration;

use crate::api::chains::Before;
use crate::api::operation::Origin;
use crate::api::submission::Submitted;
use crate::api::{Accepted, Claim, Found, Key, NewTask, State};
use crate::file::trouble::Result;
use crate::group::transaction::{Evidence, Group};
use crate::process::memory::{Running, Watched};
use crate::rows::store::{self, NewRow};
use crate::rows::{counts, events, lanes};

/// How long a count of the tasks that wait is good for, at most.
const COUNTED: Duration = Duration::from_secs(1);

/// The places of the tasks before one, or the id that none has.
type Places = std::result::Result<Vec<i64>, String>;

impl Group<'_> {
    /// Accepts tasks in order, until one is refused. If one of them follows another one of them,
    /// then all or none.
    pub(crate) fn submit_all(&mut self, tasks: &[NewTask], origin: Origin) -> Result<Submitted> {
        let mut done = Submitted::default();
        let is_chain = tasks.iter().any(|task| {
            let before = task.follows.iter().flat_map(|it| &it.tasks);
            before.into_iter().any(|it| matches!(it, Before::Place(_)))
        });
        if is_chain && let Some(refused) = self.refusal(tasks)? {
            done.refused = Some(refused);
            return Ok(done);
        }
        let mut places = Vec::with_capacity(tasks.len());
        for (number, task) in tasks.iter().enumerate() {
            let before = match self.before(task, &places)? {
                Ok(before) => before,
                Err(id) => {
                    done.refused = Some((number, Accepted::Missing(id)));
                    return Ok(done);
                }
            };
            let (accepted, place) = self.submit(task, &before, origin)?;
            if is_refusal(task, &accepted) {
                done.refused = Some((number, accepted));
                return Ok(done);
            }
            places.push(match &accepted {
                Accepted::Twin { id, .. } if is_chain => {
                    store::place(self.connection, id)?.unwrap_or(place)
                }
                _ => place,
            });
            done.accepted.push(accepted);
        }
        Ok(done)
    }

    /// Why not all tasks of a chain can be accepted: the first one that cannot, and the reason.
    fn refusal(&mut self, tasks: &[NewTask]) -> Result<Option<(usize, Accepted)>> {
        let mut seen: HashSet<(u8, &str)> = HashSet::new();
        for (number, task) in tasks.iter().enumerate() {
            if task.follows.is_none() && self.is_full()? {
                return Ok(Some((number, Accepted::Full)));
            }
            for before in task.follows.iter().flat_map(|it| &it.tasks) {
                if let Before::Id(id) = before
                    && store::place(self.connection, id)?.is_none()
                {
                    return Ok(Some((number, Accepted::Missing(id.clone()))));
                }
            }
            if !seen.insert((0, &task.id)) || store::is_taken(self.connection, &task.id)? {
                return Ok(Some((number, Accepted::Taken)));
            }
            for (kind, by, key) in [(1, Key::Once, &task.once), (2, Key::Unique, &task.unique)] {
                let Some(key) = key else { continue };
                let twin = store::twin(self.connection, by, &self.scoped(key))?;
                let own = tasks[..number].iter().find(|it| match by {
                    Key::Once => it.once.as_ref() == Some(key),
                    Key::Unique => it.unique.as_ref() == Some(key),
                });
                let own = own.map(|it| (it.id.clone(), it.function.clone()));
                seen.insert((kind, key));
                if let Some((id, function)) = twin.or(own) {
                    let twin = Accepted::Twin { id, function, by };
                    if is_refusal(task, &twin) {
                        return Ok(Some((number, twin)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The places of the tasks that a task is to follow.
    fn before(&self, task: &NewTask, places: &[i64]) -> Result<Places> {
        let Some(follows) = &task.follows else {
            return Ok(Ok(Vec::new()));
        };
        let mut found = Vec::with_capacity(follows.tasks.len());
        for before in &follows.tasks {
            let place = match before {
                Before::Id(id) => store::place(self.connection, id)?,
                Before::Place(number) => places.get(*number).copied(),
            };
            match (place, before) {
                (Some(place), _) => found.push(place),
                (None, Before::Id(id)) => return Ok(Err(id.clone())),
                (None, Before::Place(number)) => return Ok(Err(number.to_string())),
            }
        }
        Ok(Ok(found))
    }

    /// Whether as many tasks wait as may.
    fn is_full(&mut self) -> Result<bool> {
        let most = self.part.core.settings.waiting;
        if most == 0 {
            return Ok(false);
        }
        let count = || counts::count_waiting(self.connection);
        Ok(*self.memory.waiting.get(COUNTED, count)? >= most)
    }

    /// Accepts a task that follows those at the places `before`; also its own place.
    pub(crate) fn submit(
        &mut self,
        task: &NewTask,
        before: &[i64],
        origin: Origin,
    ) -> Result<(Accepted, i64)> {
        let follows = task.follows.as_ref();
        // What follows others waits by itself.
        if follows.is_none() && self.is_full()? {
            return Ok((Accepted::Full, 0));
        }
        let unique_key = task.unique.as_ref().map(|key| self.scoped(key));
        let once_key = task.once.as_ref().map(|key| self.scoped(key));
        let function = self.function(&task.function)?;
        let application = self.application()?;
        let is_due = task.due.is_none_or(|due| due <= self.now);
        let is_paused = self.is_paused(function)?;
        let is_fresh = task.expires.is_none_or(|expires| expires > self.now);
        let key = task.limits.as_ref();
        let app = &self.part.core.settings.app;
        let key = key.map(|it| format!("{app}{}{}", lanes::SEPARATOR, it.key));
        let limits = task.limits.as_deref().zip(key.as_deref());
        let may_go = match limits {
            Some((limits, key)) if is_due && !is_paused && follows.is_none() => {
                self.enter(key, limits, task.rank)?
            }
            _ => true,
        };
        let starts = self.is_claiming()
            && self.may_start
            && follows.is_none()
            && is_due
            && is_fresh
            && may_go
            && !is_paused
            && self.memory.known.contains(&function)
            && !self.left[task.pool as usize]
            && self.free(task.pool) > 0;
        let state = match (starts, is_due) {
            _ if follows.is_some() => State::Blocked,
            (true, _) => State::Running,
            _ if !may_go => State::Blocked,
            (_, true) => State::Ready,
            _ => State::Scheduled,
        };
        // The process watches what it does not start.
        let slot = self.slot()?;
        let row = NewRow {
            task,
            application,
            function,
            state,
            is_aside: is_paused && state == State::Ready,
            owner: starts.then_some(slot),
            // It may be given the result of one task at several places.
            waiting_for: i64::try_from(HashSet::<_>::from_iter(before).len()).unwrap_or(i64::MAX),
            submitter: slot,
            unique_key: unique_key.as_deref(),
            once_key: once_key.as_deref(),
            limits,
            now: self.now,
        };
        let Some(sequence) = store::insert(self.connection, &row)? else {
            let keys = (unique_key.as_deref(), once_key.as_deref());
            let twin = match origin {
                Origin::Caller => self.excluded(keys.0, keys.1)?,
                Origin::Outbox => self.excluded_for_good(&task.id, keys.0, keys.1)?,
            };
            return Ok((twin, 0));
        };
        self.effects.evidence = Some(Evidence::Inserted(task.id.clone()));
        if starts {
            if let Some((limits, key)) = limits {
                self.starts(key, limits)?;
            }
            self.flight[task.pool as usize] += 1;
            let claim = Claim {
                task: sequence,
                epoch: 1,
                attempt: 1,
            };
            self.effects.started.push((
                sequence,
                Running {
                    epoch: 1,
                    pool: task.pool,
                    is_suspect: false,
                    is_limited: limits.is_some(),
                    is_watched: true,
                    is_told: false,
                },
            ));
            return Ok((Accepted::Mine(self.memory.sign(claim)), sequence));
        }
        self.effects
            .watched
            .push((sequence, Watched::implied(task.id.clone())));
        self.note_held(sequence, task, before, !may_go, is_paused)?;
        if follows.is_some() {
            self.hold(sequence, before)?;
            return Ok((Accepted::Waiting, sequence));
        }
        *self.memory.waiting.last() += 1;
        if !row.is_aside {
            self.has_new(task, state);
        }
        Ok((Accepted::Waiting, sequence))
    }

    /// Notes why a new task does not wait for a worker alone, if a page shows it.
    fn note_held(
        &self,
        sequence: i64,
        task: &NewTask,
        before: &[i64],
        is_limited: bool,
        is_paused: bool,
    ) -> Result<()> {
        if !self.part.records() {
            return Ok(());
        }
        let text = if let Some(first) = before.first() {
            events::after(self.connection, *first)?
        } else if let Some(due) = task.due.filter(|due| *due > self.now) {
            events::until(due)
        } else if is_paused {
            events::PAUSED.to_owned()
        } else if is_limited {
            events::LANE.to_owned()
        } else {
            return Ok(());
        };
        self.event(sequence, events::HELD, Some(&text))
    }

    /// A new task waits, and not for its function to be resumed.
    fn has_new(&mut self, task: &NewTask, state: State) {
        match state {
            // By the end of another one of its lane, or when its rate allows it.
            State::Blocked => self.has_ready |= !self.effects.claims,
            State::Ready => {
                self.left[task.pool as usize] = true;
                self.has_ready = true;
                self.effects.is_hungry = true;
            }
            _ => self.has_new_due(task.due),
        }
    }

    fn excluded(&mut self, unique: Option<&str>, once: Option<&str>) -> Result<Accepted> {
        for (key, by) in [(once, Key::Once), (unique, Key::Unique)] {
            let Some(key) = key else { continue };
            if let Some((id, function)) = store::twin(self.connection, by, key)? {
                return Ok(Accepted::Twin { id, function, by });
            }
        }
        Ok(Accepted::Taken)
    }

    /// As `excluded`, for a task that may be submitted again: the answer stays the same.
    fn excluded_for_good(
        &mut self,
        id: &str,
        unique: Option<&str>,
        once: Option<&str>,
    ) -> Result<Accepted> {
        if store::find(self.connection, id, None)?.0 != Found::Unknown {
            return Ok(Accepted::Taken);
        }
        let accepted = self.excluded(unique, once)?;
        store::exclude(self.connection, id, self.now)?;
        Ok(accepted)
    }
}

/// Whether that refuses the task; otherwise it is accepted, or another one stands for it.
fn is_refusal(task: &NewTask, accepted: &Accepted) -> bool {
    match accepted {
        Accepted::Mine(_) | Accepted::Waiting => false,
        Accepted::Twin { function, by, .. } => {
            task.is_strict || (*by == Key::Once && *function != task.function)
        }
        Accepted::Taken | Accepted::Full | Accepted::Missing(_) => true,
    }
}
