//! What a durable task keeps for its next attempt: checkpoints, and the results of its steps.
//!
//! The texts are a copy of the journal's. Without a journal, as in tests, they are all there is.

use std::collections::{BTreeMap, HashMap, HashSet};

use flask_delay_journal::Kept;

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
    pub(crate) fn of_attempt(&mut self, attempt: u32) -> &mut Self {
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

    /// The loop at that place has ended, or was left.
    pub(crate) fn end_loop(&mut self, place: u32) {
        self.is_looping &= self.loops != place;
    }

    pub(crate) fn is_interrupted(&self, attempt: u32) -> bool {
        self.is_interrupted && self.attempt == attempt
    }
}
