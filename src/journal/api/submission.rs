//! The answers to tasks that are submitted.

use super::task::Accepted;
use crate::shared::answer::Answer;

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
