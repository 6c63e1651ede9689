//! What a process asks another one to do.

use std::sync::Arc;

use super::task::State;
use crate::shared::answer::{Answer, Ticket};
use crate::shared::errors::Error;

/// What another process is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub verb: String,
    /// With what: the id of a task or of a job.
    pub target: String,
    /// The person who asks.
    pub actor: Option<String>,
    /// Whether it is for the process that has the task with this id, if the file knows one.
    pub is_task: bool,
}

/// A command, for a process that may have its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which one it is.
    pub number: i64,
    /// What to do, and with what.
    pub order: Order,
    /// Whether it is for any process that has the target.
    pub is_open: bool,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The process has dealt with it, and says this.
    Done(String),
    /// It is given, and there is no answer yet.
    Asked,
    /// The process has ended, or does so.
    Gone,
    /// No process has the target.
    Nowhere,
    /// This process has the task.
    Here,
    /// No process runs the task, which is in that state.
    Not(State),
}

/// Where the answer to a command comes, once it is given. `None`: its process has gone.
type Place = Arc<Ticket<std::result::Result<Option<String>, Error>>>;

/// What an order has led to at first.
pub(crate) enum Sent {
    Waits(i64, Place),
    Not(Reply),
}

/// What threads ask of the writer thread about commands.
pub(crate) enum Ask {
    Send(Box<Order>, Answer<Sent>),
    /// The thread waits no longer.
    Leave(i64, Answer<Reply>),
    Take(i64, Answer<bool>),
    Settle(i64, String),
}

pub(crate) enum Told {
    Sent(Sent),
    Reply(Reply),
    Taken(bool),
    Nothing,
}

impl Ask {
    pub(crate) fn give(self, told: Told) {
        match (self, told) {
            (Self::Send(_, answer), Told::Sent(sent)) => answer.give(Ok(sent)),
            (Self::Leave(_, answer), Told::Reply(reply)) => answer.give(Ok(reply)),
            (Self::Take(_, answer), Told::Taken(taken)) => answer.give(Ok(taken)),
            _ => {}
        }
    }

    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Send(_, answer) => answer.give(Err(error)),
            Self::Leave(_, answer) => answer.give(Err(error)),
            Self::Take(_, answer) => answer.give(Err(error)),
            Self::Settle(..) => {}
        }
    }
}
