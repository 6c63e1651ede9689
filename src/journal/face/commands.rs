//! Asking another process to do something.

use std::time::{Duration, Instant};

use super::journal::Journal;
use crate::api::Error;
use crate::api::commands::{Ask, Order, Reply, Sent};
use crate::api::operation::Operation;

impl Journal {
    /// Asks another process to do something, and waits at most so long for what became of it.
    ///
    /// # Errors
    ///
    /// As for `retry`.
    pub fn command(&self, order: Order, patience: Duration) -> Result<Reply, Error> {
        let until = Instant::now() + patience;
        let order = Box::new(order);
        let sent = self.ask(true, |answer| Operation::Command(Ask::Send(order, answer)))?;
        let (number, ticket) = match sent {
            Sent::Waits(number, ticket) => (number, ticket),
            Sent::Not(reply) => return Ok(reply),
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match ticket.wait_for(left) {
                Some(answer) => return Ok(answer?.map_or(Reply::Gone, Reply::Done)),
                None if left.is_zero() => break,
                // A spurious wake-up.
                None => {}
            }
        }
        self.ask(true, |answer| {
            Operation::Command(Ask::Leave(number, answer))
        })
    }

    /// Takes a command, which this process is about to deal with: `false` if it must not, since
    /// another one has, or the command is gone.
    ///
    /// # Errors
    ///
    /// As for `retry`.
    pub fn take_command(&self, number: i64) -> Result<bool, Error> {
        self.ask(true, |answer| Operation::Command(Ask::Take(number, answer)))
    }

    /// Says what became of a command. Does not wait.
    pub fn settle(&self, number: i64, outcome: String) {
        self.tell(Operation::Command(Ask::Settle(number, outcome)));
    }
}
