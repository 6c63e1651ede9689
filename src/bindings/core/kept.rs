//! What a durable task keeps for its next attempt: checkpoints, and the results of its steps.
//!
//! The texts are a copy of the journal's. Without a journal, as in tests, they are all there is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use flask_delay_journal::{Claim, Kept};
use pyo3::prelude::*;

use super::durable::{self, Link};
use super::policy;
use super::task::Task;

/// The place of the task's own checkpoint; those of its loops follow.
pub(crate) const OWN: u32 = 0;

#[derive(Default)]
pub(crate) struct Keeping {
    checkpoints: BTreeMap<u32, String>,
    steps: HashMap<String, String>,
    /// The attempt that the following is about.
    attempt: u32,
    /// The steps that run or have ended.
    names: HashSet<String>,
    /// How many loops have begun, and whether the last one goes on.
    loops: u32,
    is_looping: bool,
    /// The attempt was told to end, since its process ends.
    is_interrupted: bool,
}

impl From<Kept> for Keeping {
    fn from(kept: Kept) -> Self {
        Self {
            checkpoints: kept.checkpoints.into_iter().collect(),
            steps: kept.steps.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What the name of a step leads to.
pub(crate) enum Found {
    /// The result of an earlier attempt.
    Result(String),
    /// Nothing: the step begins.
    New,
    /// A step of this attempt.
    Used,
}

impl Keeping {
    fn of_attempt(&mut self, attempt: u32) -> &mut Self {
        if self.attempt != attempt {
            self.attempt = attempt;
            self.names.clear();
            self.loops = 0;
            self.is_looping = false;
            self.is_interrupted = false;
        }
        self
    }

    pub(crate) fn checkpoint(&self, place: u32) -> Option<&String> {
        self.checkpoints.get(&place)
    }

    pub(crate) fn set_checkpoint(&mut self, place: u32, value: String) {
        self.checkpoints.insert(place, value);
    }

    pub(crate) fn begin_step(&mut self, name: &str) -> Found {
        if !self.names.insert(name.to_owned()) {
            return Found::Used;
        }
        match self.steps.get(name) {
            Some(result) => Found::Result(result.clone()),
            None => Found::New,
        }
    }

    /// The step has raised: it may begin again.
    pub(crate) fn forget_step(&mut self, name: &str) {
        self.names.remove(name);
    }

    pub(crate) fn end_step(&mut self, name: String, result: String) {
        self.steps.insert(name, result);
    }

    /// The place of the loop that begins; None if another one goes on.
    pub(crate) fn begin_loop(&mut self) -> Option<u32> {
        if std::mem::replace(&mut self.is_looping, true) {
            return None;
        }
        self.loops += 1;
        Some(self.loops)
    }

    pub(crate) fn interrupt(&mut self) {
        self.is_interrupted = true;
    }
}

/// Where a task keeps what it keeps.
pub(crate) enum Keeper {
    Journal(Arc<Link>, Claim),
    /// In this process alone; the most bytes of a value.
    Memory(usize),
}

impl Keeper {
    /// That of a running task; None if it is not durable, or does not run here.
    pub(crate) fn of(this: &Bound<'_, Task>) -> Option<Self> {
        if this.get().is_of_another_process() {
            return None;
        }
        if let Some((link, claim)) = durable::claim_of(this.get()) {
            return Some(Self::Journal(link, claim));
        }
        policy::policy(this)?.get().keeps.map(Self::Memory)
    }

    /// The most bytes of a value.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Journal(link, _) => link.most,
            Self::Memory(most) => *most,
        }
    }
}

/// Reads or changes what a task keeps.
pub(crate) fn with<R>(this: &Task, step: impl FnOnce(&mut Keeping) -> R) -> R {
    policy::with_new(this, |rules| {
        let attempt = rules.attempts;
        step(rules.kept.get_or_insert_default().of_attempt(attempt))
    })
}

/// A loop of a task has ended, or was left: maybe on a thread that runs another task by now.
pub(crate) fn end_loop(this: &Task, place: u32) {
    policy::with(this, |rules| {
        if let Some(kept) = &mut rules.kept {
            kept.is_looping &= kept.loops != place;
        }
    });
}

/// Whether this attempt was told to end, since its process ends.
pub(crate) fn is_interrupted(this: &Task) -> bool {
    let told = policy::with(this, |rules| {
        let attempt = rules.attempts;
        let kept = rules.kept.as_ref()?;
        Some(kept.is_interrupted && kept.attempt == attempt)
    });
    told.flatten().unwrap_or(false)
}
