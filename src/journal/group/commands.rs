//! Commands: what a process asks another one to do with a task or a job that is there alone.
//!
//! A command is a row with a verb and its target, which the host reads: data, and never code. It is
//! for the process that has the task, or open: for the first one that says the target is its own. That
//! process takes it in one transaction, so it is done once or not at all, and puts what became of
//! it into the row. The process that asks waits for that no longer than it likes.
//!
//! A command that is for a process goes with it, and any one a minute after it was given.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::State;
use crate::api::commands::{Ask, Command, Order, Reply, Sent, Told};
use crate::file::{liveness, trouble};
use crate::group::transaction::Group;
use crate::rows::store;
use crate::shared::answer::Answer;

/// Commands are kept so long, in microseconds.
const KEPT: i64 = 60 * 1_000_000;

// --- SQL ----------------------------------------------------------------------------

/// The commands after a number that no process has taken, and that may be for this one.
pub(crate) fn untaken(
    connection: &Connection,
    app: &str,
    slot: i64,
    after: i64,
) -> Result<Vec<Command>> {
    let sql = "SELECT sequence, verb, target, actor, process IS NULL FROM command \
               WHERE taken_at IS NULL AND sequence > ?1 AND (process = ?2 OR process IS NULL AND sender <> ?2 \
               AND application = (SELECT application FROM application WHERE name = ?3)) ORDER BY sequence";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![after, slot, app], |row| {
        let is_open: bool = row.get(4)?;
        Ok(Command {
            number: row.get(0)?,
            order: Order {
                verb: row.get(1)?,
                target: row.get(2)?,
                actor: row.get(3)?,
                is_task: !is_open,
            },
            is_open,
        })
    })?;
    rows.collect()
}

/// How a command stands.
pub(crate) enum Standing {
    Open,
    Done(String),
    Gone,
}

pub(crate) fn standing(connection: &Connection, number: i64) -> Result<Standing> {
    let sql = "SELECT outcome FROM command WHERE sequence = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([number], |row| {
        Ok(row.get(0).map_or(Standing::Open, Standing::Done))
    });
    Ok(found.optional()?.unwrap_or(Standing::Gone))
}

/// Whether there is a command that has been there for long.
pub(crate) fn has_old(connection: &Connection, now: i64) -> Result<bool> {
    let sql = "SELECT given_at FROM command ORDER BY sequence LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let given: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(given.is_some_and(|given| given < now.saturating_sub(KEPT)))
}

/// Removes those.
pub(crate) fn prune(connection: &Connection, now: i64) -> Result<()> {
    let sql = "DELETE FROM command WHERE given_at < ?1";
    connection
        .prepare_cached(sql)?
        .execute([now.saturating_sub(KEPT)])?;
    Ok(())
}

/// Whether a process is gone or dead, as far as that is known.
fn is_gone(group: &Group<'_>, slot: i64) -> Result<bool> {
    let pid = store::pid(group.connection, slot)?;
    let place = &group.part.core.place;
    Ok(pid.is_none_or(|pid| liveness::is_dead(place, slot, pid).unwrap_or_default()))
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    pub(crate) fn command(&mut self, ask: &Ask) -> trouble::Result<Told> {
        Ok(match ask {
            Ask::Send(order, _) => Told::Sent(self.send(order)?),
            Ask::Leave(number, _) => Told::Reply(self.leave_command(*number)?),
            Ask::Take(number, _) => Told::Taken(self.take_command(*number)?),
            Ask::Settle(number, outcome) => {
                self.settle(*number, outcome)?;
                Told::Nothing
            }
        })
    }

    fn send(&mut self, order: &Order) -> trouble::Result<Sent> {
        let application = self.application()?;
        let slot = self.slot()?;
        let mut process = None;
        if order.is_task
            && let Some(task) = store::standing(self.connection, &order.target)?
        {
            match task.owner {
                Some(owner) if task.state == State::Running && owner == slot => {
                    return Ok(Sent::Not(Reply::Here));
                }
                Some(owner) if task.state == State::Running => process = Some(owner),
                _ => return Ok(Sent::Not(Reply::Not(task.state))),
            }
        }
        let others = match process {
            Some(owner) if is_gone(self, owner)? => return Ok(Sent::Not(Reply::Gone)),
            Some(owner) => vec![owner],
            None => {
                let all = store::processes(self.connection)?;
                all.into_iter()
                    .map(|it| it.slot)
                    .filter(|it| *it != slot)
                    .collect()
            }
        };
        if others.is_empty() {
            return Ok(Sent::Not(Reply::Nowhere));
        }
        let sql = "INSERT INTO command (application, given_at, verb, target, process, sender, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.connection.prepare_cached(sql)?.execute(params![
            application,
            self.now,
            order.verb,
            order.target,
            process,
            slot,
            order.actor
        ])?;
        let number = self.connection.last_insert_rowid();
        self.effects.wake.extend(others);
        let (answer, ticket) = Answer::ticket();
        self.effects.asked.push((number, answer));
        Ok(Sent::Waits(number, ticket))
    }

    fn leave_command(&mut self, number: i64) -> trouble::Result<Reply> {
        self.effects.left.push(number);
        let sql = "SELECT process, taken_at IS NOT NULL, outcome FROM command WHERE sequence = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row([number], |row| {
            Ok((
                row.get::<_, Option<i64>>(0)?,
                row.get(1)?,
                row.get::<_, Option<String>>(2)?,
            ))
        });
        Ok(match row.optional()? {
            None => Reply::Gone,
            Some((_, _, Some(outcome))) => Reply::Done(outcome),
            Some((None, false, None)) => {
                // A process that starts later does not do it unasked.
                let sql = "DELETE FROM command WHERE sequence = ?1";
                self.connection.prepare_cached(sql)?.execute([number])?;
                Reply::Nowhere
            }
            Some((Some(process), _, None)) if is_gone(self, process)? => Reply::Gone,
            Some(_) => Reply::Asked,
        })
    }

    fn take_command(&mut self, number: i64) -> trouble::Result<bool> {
        let slot = self.slot()?;
        let sql = "UPDATE command SET taken_at = ?3, process = ?2 \
                   WHERE sequence = ?1 AND taken_at IS NULL AND (process IS NULL OR process = ?2)";
        let count = self
            .connection
            .prepare_cached(sql)?
            .execute(params![number, slot, self.now])?;
        Ok(count > 0)
    }

    fn settle(&mut self, number: i64, outcome: &str) -> trouble::Result<()> {
        let sql = "UPDATE command SET outcome = ?2 WHERE sequence = ?1 RETURNING sender";
        let mut statement = self.connection.prepare_cached(sql)?;
        let sender = statement.query_row(params![number, outcome], |row| row.get::<_, i64>(0));
        self.effects.wake.extend(sender.optional()?);
        Ok(())
    }
}
