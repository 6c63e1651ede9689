//! What a task waits for.

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
