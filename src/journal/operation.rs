//! What threads ask of the writer thread.

use crate::answer::Answer;
use crate::api::{
    Accepted, Cancelled, Change, Changed, Claim, Error, Found, NewTask, Outcome, Stats,
};

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

    /// Whether it ends a task, or an attempt: it has to be written some time.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Change(..) | Self::PublishEnded(..))
    }

    /// Answers with an error; the same operation for another time, if it has to be written.
    pub(crate) fn again(self, error: &Error) -> Option<Self> {
        match self {
            Self::Change(claim, change, answer) => {
                answer.give(Err(error.clone()));
                Some(Self::Change(claim, change, Answer::none()))
            }
            Self::PublishEnded(..) => Some(self),
            other => {
                other.refuse(error);
                None
            }
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: &Error) {
        let error = error.clone();
        match self {
            Self::Submit(_, answer) => answer.give(Err(error)),
            Self::Change(_, _, answer) => answer.give(Err(error)),
            Self::Get(_, answer) | Self::Watch(_, answer) => answer.give(Err(error)),
            Self::Cancel(_, answer) | Self::Stop(_, answer) => answer.give(Err(error)),
            Self::Stats(answer) => answer.give(Err(error)),
            Self::Start(answer) | Self::Close(answer) => answer.give(Err(error)),
            Self::Publish(_) | Self::PublishBegan(..) | Self::PublishEnded(..) | Self::Know => {}
        }
    }
}

/// What the writer thread has done for an operation; told when it is committed.
pub(crate) enum Said {
    Accepted(Accepted),
    Changed(Changed),
    Found(Found),
    Cancelled(Cancelled),
    Stats(Stats),
    Refused(Error),
    Nothing,
}
