//! What threads ask of the writer thread.

use super::jobs::{Ask, Told};
use super::lists::{Class, Filter, Page, Query, Version};
use super::record::{self, Answered};
use super::submission::Submitted;
use super::task::{Cancelled, Change, Changed, Claim, Found, NewTask, Outcome, Retried, Stats};
use super::{commands, permits};
use crate::shared::answer::Answer;
use crate::shared::errors::Error;

/// An operation, and where its answer goes.
pub(crate) enum Operation {
    Submit(Vec<NewTask>, Origin, Answer<Submitted>),
    Change(Claim, Change, Answer<Changed>),
    Step(Claim, Box<Step>, Answer<Changed>),
    Get(String, Answer<Found>),
    Watch(String, Answer<Found>),
    Cancel(String, Answer<Cancelled>),
    Stop(String, Answer<Cancelled>),
    Stats(Answer<Stats>),
    /// The place of the task with an id.
    Place(String, Answer<Option<i64>>),
    List(Box<Query>, Answer<Page>),
    /// The failures of some functions, or of all, that ended since then, by their classes.
    Classes(Option<Vec<String>>, i64, Answer<Vec<Class>>),
    Version(Answer<Version>),
    /// Which of these ids no task has or has had.
    Lacking(Vec<String>, Answer<Vec<String>>),
    Names(Answer<Vec<String>>),
    Paused(Answer<Vec<Option<String>>>),
    Retry(String, Answer<Retried>),
    Pause(Option<String>, Answer<()>),
    /// Answers whether it has to be done again.
    Resume(Option<String>, Answer<bool>),
    /// Answers how many tasks below a place are removed, and where to go on.
    Prune(Box<Filter>, i64, Answer<(u64, Option<i64>)>),
    Periodic(Ask),
    /// A plain task's place in a lane.
    Permit(permits::Ask),
    Command(commands::Ask),
    /// What a page asks of all processes.
    Look(record::Query, Answer<Answered>),
    /// What a page tells.
    Hear(record::Told),
    /// What this process was asked for at that time.
    Show(i64, String),
    Publish(Box<Plain>),
    PublishBegan(String, i64),
    PublishEnded(String, Outcome),
    /// The functions that this process knows have changed.
    Know,
    Start(Answer<()>),
    Close(Answer<()>),
}

/// Where a new task comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Caller,
    /// A row of a database, which may bring it several times.
    Outbox,
}

/// A plain task to publish.
pub(crate) struct Plain {
    pub id: String,
    pub function: String,
    pub submitted_at: i64,
    pub began: Option<i64>,
}

/// A step that has ended.
pub(crate) struct Step {
    pub name: String,
    /// As JSON.
    pub result: String,
}

impl Operation {
    /// Whether it only reads: then it needs no turn.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::Periodic(ask) => return ask.is_read(),
            Self::Permit(ask) => return ask.is_read(),
            _ => {}
        }
        matches!(
            self,
            Self::Get(..)
                | Self::Stats(_)
                | Self::Place(..)
                | Self::List(..)
                | Self::Classes(..)
                | Self::Version(_)
                | Self::Lacking(..)
                | Self::Names(_)
                | Self::Paused(_)
                | Self::Look(..)
                | Self::Show(..)
        )
    }

    /// Whether it goes before the claims of its group, because they depend on it, or before an
    /// operation that they depend on.
    pub(crate) fn is_first(&self) -> bool {
        matches!(
            self,
            Self::Change(..)
                | Self::Step(..)
                | Self::Permit(_)
                | Self::Know
                | Self::Start(_)
                | Self::Publish(_)
                | Self::Retry(..)
                | Self::Pause(..)
                | Self::Resume(..)
        )
    }

    /// Whether it gives back a place of a plain task.
    pub(crate) fn is_place(&self) -> bool {
        matches!(self, Self::Permit(permits::Ask::Leave(_)))
    }

    /// Whether its task, or its step, runs again if it is never written.
    pub(crate) fn is_outcome(&self) -> bool {
        matches!(self, Self::Change(..) | Self::Step(..))
    }

    /// Whether it ends a task, an attempt or a step: it has to be written some time.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Periodic(ask) => return ask.is_end(),
            Self::Permit(ask) => return ask.is_end(),
            _ => {}
        }
        matches!(
            self,
            Self::Change(..) | Self::Step(..) | Self::PublishEnded(..)
        )
    }

    /// Answers with an error; the same operation for another time, if it has to be written.
    pub(crate) fn again(self, error: &Error) -> Option<Self> {
        match self {
            Self::Change(claim, change, answer) => {
                answer.give(Err(error.clone()));
                Some(Self::Change(claim, change, Answer::none()))
            }
            Self::Step(claim, step, answer) => {
                answer.give(Err(error.clone()));
                Some(Self::Step(claim, step, Answer::none()))
            }
            Self::Periodic(ref ask) if ask.is_end() => Some(self),
            Self::Permit(ref ask) if ask.is_end() => Some(self),
            Self::PublishEnded(..) => Some(self),
            other => {
                other.refuse(error);
                None
            }
        }
    }

    /// Answers with what was done, for operations of which nothing else follows.
    pub(crate) fn give(self, said: Said) {
        match (self, said) {
            (Self::Periodic(ask), Said::Periodic(told)) => drop(ask.give(told, false)),
            (Self::Permit(ask), Said::Permit(told)) => ask.give(told),
            (Self::Command(ask), Said::Command(told)) => ask.give(told),
            (Self::Look(_, answer), Said::Answered(answered)) => answer.give(Ok(answered)),
            (Self::Place(_, answer), Said::Place(place)) => answer.give(Ok(place)),
            (Self::List(_, answer), Said::Page(page)) => answer.give(Ok(page)),
            (Self::Classes(.., answer), Said::Classes(classes)) => answer.give(Ok(classes)),
            (Self::Lacking(_, answer), Said::Names(ids)) => answer.give(Ok(ids)),
            (Self::Version(answer), Said::Version(version)) => answer.give(Ok(version)),
            (Self::Names(answer), Said::Names(names)) => answer.give(Ok(names)),
            (Self::Paused(answer), Said::Paused(names)) => answer.give(Ok(names)),
            (Self::Retry(_, answer), Said::Retried(retried)) => answer.give(Ok(retried)),
            (Self::Pause(_, answer), Said::Nothing) => answer.give(Ok(())),
            (Self::Resume(_, answer), Said::More(more)) => answer.give(Ok(more)),
            (Self::Prune(.., answer), Said::Pruned(count, next)) => answer.give(Ok((count, next))),
            _ => {}
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: &Error) {
        let error = error.clone();
        match self {
            Self::Submit(_, _, answer) => answer.give(Err(error)),
            Self::Periodic(ask) => ask.refuse(error),
            Self::Permit(ask) => ask.refuse(error),
            Self::Command(ask) => ask.refuse(error),
            Self::Change(_, _, answer) | Self::Step(_, _, answer) => answer.give(Err(error)),
            Self::Get(_, answer) | Self::Watch(_, answer) => answer.give(Err(error)),
            Self::Cancel(_, answer) | Self::Stop(_, answer) => answer.give(Err(error)),
            Self::Stats(answer) => answer.give(Err(error)),
            Self::Start(answer) | Self::Close(answer) | Self::Pause(_, answer) => {
                answer.give(Err(error));
            }
            Self::Place(_, answer) => answer.give(Err(error)),
            Self::List(_, answer) => answer.give(Err(error)),
            Self::Classes(.., answer) => answer.give(Err(error)),
            Self::Version(answer) => answer.give(Err(error)),
            Self::Names(answer) | Self::Lacking(_, answer) => answer.give(Err(error)),
            Self::Look(_, answer) => answer.give(Err(error)),
            Self::Paused(answer) => answer.give(Err(error)),
            Self::Retry(_, answer) => answer.give(Err(error)),
            Self::Resume(_, answer) => answer.give(Err(error)),
            Self::Prune(.., answer) => answer.give(Err(error)),
            Self::Publish(_)
            | Self::PublishBegan(..)
            | Self::PublishEnded(..)
            | Self::Hear(_)
            | Self::Show(..)
            | Self::Know => {}
        }
    }
}

/// What the writer thread has done for an operation; told when it is committed.
pub(crate) enum Said {
    Submitted(Submitted),
    Changed(Changed),
    Found(Found),
    Cancelled(Cancelled),
    Stats(Stats),
    Place(Option<i64>),
    Page(Page),
    Classes(Vec<Class>),
    Version(Version),
    Names(Vec<String>),
    Paused(Vec<Option<String>>),
    Retried(Retried),
    More(bool),
    Pruned(u64, Option<i64>),
    Periodic(Told),
    Permit(permits::Told),
    Command(commands::Told),
    Answered(Answered),
    Refused(Error),
    Nothing,
}
