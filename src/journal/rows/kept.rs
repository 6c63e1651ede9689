//! What a task keeps for its next attempt: checkpoints, and the results of its steps.
//!
//! A checkpoint waits in memory for the next transaction, whatever that is about. It is written
//! before the operations of its group: they have been sent after it, so none of them is in the file
//! without it.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, Result, params};

use crate::api::{Claim, Kept};

/// The checkpoints that are not in the file, the last one of each place.
#[derive(Default)]
pub(crate) struct Checkpoints(HashMap<Claim, BTreeMap<u32, String>>);

impl Checkpoints {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, claim: Claim, place: u32, value: String) {
        self.0.entry(claim).or_default().insert(place, value);
    }

    /// Adds those that were told since.
    pub(crate) fn add(&mut self, newer: Self) {
        for (claim, places) in newer.0 {
            self.0.entry(claim).or_default().extend(places);
        }
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (Claim, u32, &str)> {
        self.0.iter().flat_map(|(claim, places)| {
            let places = places.iter();
            places.map(|(place, value)| (*claim, *place, &**value))
        })
    }
}

/// Writes a checkpoint of a task that this process runs by that claim. Of any other, nothing.
pub(crate) fn set_checkpoint(
    connection: &Connection,
    claim: Claim,
    slot: i64,
    place: u32,
    value: &str,
) -> Result<()> {
    let sql = "INSERT INTO checkpoint (task, place, value) SELECT sequence, ?4, ?5 FROM task \
               WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 \
               ON CONFLICT (task, place) DO UPDATE SET value = excluded.value";
    let values = params![claim.task, slot, claim.epoch, place, value];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Keeps the result of a step of a task that this process runs by that claim; whether it does.
pub(crate) fn add_step(
    connection: &Connection,
    claim: Claim,
    slot: i64,
    name: &str,
    result: &str,
) -> Result<bool> {
    // It may be there: a commit that has failed can have happened.
    let sql = "INSERT INTO step (task, name, result) SELECT sequence, ?4, ?5 FROM task \
               WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 \
               ON CONFLICT (task, name) DO UPDATE SET result = excluded.result";
    let values = params![claim.task, slot, claim.epoch, name, result];
    Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
}

/// What earlier attempts of a task have kept.
pub(crate) fn kept(connection: &Connection, task: i64) -> Result<Kept> {
    let sql = "SELECT place, value FROM checkpoint WHERE task = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let checkpoints = statement.query_map([task], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let checkpoints = checkpoints.collect::<Result<_>>()?;
    let sql = "SELECT name, result FROM step WHERE task = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let steps = statement.query_map([task], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let steps = steps.collect::<Result<_>>()?;
    Ok(Kept { checkpoints, steps })
}

/// Removes what a task has kept, with the task.
pub(crate) fn remove(connection: &Connection, task: i64) -> Result<()> {
    for sql in [
        "DELETE FROM checkpoint WHERE task = ?1",
        "DELETE FROM step WHERE task = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([task])?;
    }
    Ok(())
}
