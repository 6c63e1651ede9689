//! The places of plain tasks in lanes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::task::{Claim, Held, Limits};
use crate::shared::answer::Answer;
use crate::shared::errors::Error;

/// A permit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permit(pub(crate) u64);

impl Permit {
    /// Unlike any other of this process.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: it only has to be another one each time.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Permit {
    fn default() -> Self {
        Self::new()
    }
}

/// A permit to ask for.
#[derive(Clone, Debug)]
pub struct NewPermit {
    /// It is given back by this.
    pub permit: Permit,
    /// The function's name, for people.
    pub function: String,
    /// Smaller ones go first.
    pub rank: i64,
    /// The conditions of its lane.
    pub limits: Limits,
}

/// What a thread asks about a permit.
pub(crate) enum Ask {
    /// Answers whether it is granted, or was given back before.
    Enter(Box<NewPermit>, Answer<bool>),
    Leave(Permit),
    /// The code of a durable task goes on after its end, which comes after this: it keeps its place.
    Stay(Claim, Permit),
    /// What holds up one that waits.
    Held(Permit, Answer<Option<Box<Held>>>),
}

impl Ask {
    /// Whether it has to be written some time.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Leave(_) | Self::Stay(..))
    }

    /// Whether it only reads.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Held(..))
    }

    /// Answers what was read.
    pub(crate) fn give(self, told: Told) {
        if let (Self::Held(_, answer), Told::Held(held)) = (self, told) {
            answer.give(Ok(held));
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Enter(_, answer) => answer.give(Err(error)),
            Self::Held(_, answer) => answer.give(Err(error)),
            Self::Leave(_) | Self::Stay(..) => {}
        }
    }
}

/// What the writer thread has done for it.
pub(crate) enum Told {
    /// The place of a new permit, and whether it is granted.
    Entered(i64, bool),
    Held(Option<Box<Held>>),
    Nothing,
}
