//! Tasks that follow others, and what becomes of a submission.

use super::task::Accepted;
use crate::shared::answer::Answer;

/// Stands in a follower's arguments for the result of the task before. No JSON has this character.
pub const RESULT: char = '\u{1a}';
/// The name of the function of a task that only gathers results.
pub const GATHER: &str = "flask_delay.gather";
/// The key of an object that stands for an exception in a list of gathered results. Its value is
/// the error of a task, as a string.
pub const EXCEPTION: &str = "$exception";

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follows {
    /// The tasks before it.
    pub tasks: Vec<Before>,
    /// What their ends mean for it.
    pub how: How,
    /// How long it waits after that, in microseconds.
    pub countdown: Option<i64>,
}

/// A task that another one follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The one with this id.
    Id(String),
    /// The one at this place of the same submission.
    Place(usize),
}

/// What the end of a task means for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The follower gets its result, or fails or is cancelled with it.
    Success = 0,
    /// The follower runs, however it has ended.
    End = 1,
    /// The follower ends when all have succeeded, with a list of the results, or with the first
    /// failure. It is never claimed.
    Gather = 2,
    /// As `Gather`, but the list has an [`EXCEPTION`] for each task that has failed or was
    /// cancelled.
    GatherAll = 3,
}

impl How {
    pub(crate) fn of(code: i64) -> Self {
        match code {
            1 => Self::End,
            2 => Self::Gather,
            3 => Self::GatherAll,
            _ => Self::Success,
        }
    }

    pub(crate) fn code(self) -> i64 {
        self as i64
    }
}

/// What became of a submission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// The tasks up to the first one that is refused. None, if one of them follows another one.
    pub accepted: Vec<Accepted>,
    /// Which task is refused, and why. Those after it are not accepted either.
    pub refused: Option<(usize, Accepted)>,
}

/// What became of the only task of a submission.
pub(crate) fn one(mut done: Submitted) -> Accepted {
    let refused = done.refused.take().map(|(_, why)| why);
    // There is one of the two.
    refused
        .or_else(|| done.accepted.pop())
        .unwrap_or(Accepted::Taken)
}

/// Tasks that are answered for when they are on the disk.
pub(crate) struct Waiting {
    /// Of those that are accepted.
    pub ids: Vec<String>,
    pub answer: Answer<Submitted>,
    pub submitted: Submitted,
}
