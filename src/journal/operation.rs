//! What threads ask of the writer thread.

use crate::answer::Answer;
use crate::api::{Accepted, Cancelled, Change, Changed, Claim, Found, NewTask, Outcome, Stats};

/// An operation, and where its answer goes.
pub(crate) enum Operation {
    Submit(Box<NewTask>, Answer<Accepted>),
    Change(Claim, Change, Answer<Changed>),
    Get(String, Answer<Found>),
    Watch(String, Answer<Found>),
    Cancel(String, Answer<Cancelled>),
    Stop(String, Answer<Cancelled>),
    Stats(Answer<Stats>),
    Publish(Box<Plain>),
    PublishBegan(String, i64),
    PublishEnded(String, Outcome),
    /// The functions that this process knows have changed.
    Know,
    Start(Answer<()>),
    Close(Answer<()>),
}

/// A plain task to publish.
pub(crate) struct Plain {
    pub id: String,
    pub function: String,
    pub submitted_at: i64,
    pub began: Option<i64>,
}

impl Operation {
    /// Whether it only reads: then it needs no turn.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Get(..) | Self::Stats(_))
    }

    /// Whether it goes before the claims of its group, because it makes room for them.
    pub(crate) fn is_first(&self) -> bool {
        matches!(self, Self::Change(..) | Self::Know | Self::Start(_))
    }
}

/// What the writer thread has done for an operation; told when it is committed.
pub(crate) enum Said {
    Accepted(Accepted),
    Changed(Changed),
    Found(Found),
    Cancelled(Cancelled),
    Stats(Stats),
    Nothing,
}
