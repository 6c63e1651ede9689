//! What the writer thread does when a group is committed: remembers, answers, tells the host.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::SyncLevel;
use crate::api::operation::{Operation, Said};
use crate::api::submission::Waiting;
use crate::group::transaction::Effects;
use crate::process::memory::Watch;
use crate::writer::state::Writer;

/// So many parked tasks are remembered at most; those that are forgotten are tried once more.
const TRIED: usize = 10_000;

impl Writer {
    /// Does what follows from a committed group; whether it was the last.
    pub(crate) fn follow(
        &mut self,
        operations: Vec<Operation>,
        mut effects: Effects,
        log: Option<&Arc<File>>,
    ) -> bool {
        let part = Arc::clone(&self.part);
        self.remember(&mut effects);
        // Relaxed: a worker that misses it is made up for by the look of each second.
        part.is_hungry.store(effects.is_hungry, Ordering::Relaxed);
        self.is_hungry = effects.is_hungry;
        self.is_eager |= effects.is_eager;
        let level = part.core.settings.sync;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut closes = Vec::new();
        let mut is_late = effects.has_to_sync;
        for (operation, said) in operations.into_iter().zip(effects.said) {
            match (operation, said) {
                (operation, Said::Refused(error)) => operation.refuse(&error),
                (Operation::Submit(tasks, _, answer), Said::Submitted(submitted)) => {
                    if level == SyncLevel::Commit || tasks.iter().any(|task| task.sync) {
                        let accepted = tasks.into_iter().take(submitted.accepted.len());
                        waiting.push(Waiting {
                            ids: accepted.map(|task| task.id).collect(),
                            answer,
                            submitted,
                        });
                    } else {
                        is_late = true;
                        answer.give(Ok(submitted));
                    }
                }
                (
                    Operation::Change(_, _, answer) | Operation::Step(_, _, answer),
                    Said::Changed(changed),
                ) => answer.give(Ok(changed)),
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
                (Operation::Periodic(ask), Said::Periodic(told)) => {
                    waiting.extend(ask.give(told, level == SyncLevel::Commit));
                }
                (Operation::Permit(ask), Said::Permit(told)) => {
                    self.memory.permits.follow(ask, told);
                }
                (Operation::Start(answer), _) => answer.give(Ok(())),
                (Operation::Close(answer), _) => closes.push(answer),
                (operation, said) => operation.give(said),
            }
        }
        if let Some(log) = log {
            if !waiting.is_empty() {
                part.flusher.answer(&part, log, waiting);
            }
            if is_late && level != SyncLevel::Never {
                part.flusher.note(&part, log);
            }
        }
        for task in effects.granted {
            self.memory.permits.grant(task);
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
        if !effects.dead.is_empty() {
            host.dead(effects.dead);
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
        if effects.slot.is_some() {
            memory.slot = effects.slot;
            memory.since = effects.since;
        }
        memory.claims = effects.claims;
        memory.wants_claims |= effects.claims;
        memory.reserved = effects.reserved;
        memory.next_due = effects.next_due;
        if memory.tried.len() > TRIED {
            memory.tried.clear();
        }
        memory.tried.extend(effects.tried.drain(..));
        for task in effects.stopped.drain(..) {
            memory.running.remove(&task);
        }
        for (task, running) in effects.started.drain(..) {
            memory.running.insert(task, running);
        }
        for (task, watched) in effects.watched.drain(..) {
            let why = watched.why;
            let known = memory.watched.entry(task).or_insert(watched);
            if why == Watch::Asked {
                known.why = why;
            }
        }
        // After the others: what is claimed or has ended is not watched any more.
        for task in effects.unwatched.drain(..) {
            memory.watched.remove(&task);
        }
        for task in effects.stops_told.drain(..) {
            match memory.running.get_mut(&task) {
                Some(running) => running.is_told = true,
                None => _ = memory.told_plain.insert(task),
            }
        }
        memory.asked.extend(effects.asked.drain(..));
        for number in effects.left.drain(..) {
            memory.asked.remove(&number);
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
