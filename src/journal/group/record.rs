//! What a page shows of all processes: samples of the last days for its plots, the figures of
//! functions, and the processes, with those that have died.
//!
//! A sample comes with the next group. It is added to what other processes have of the same second,
//! so a row is all processes together. A second that was not committed is lost with its process.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::histogram::Histogram;
use crate::api::record::{Answered, Figures, Query, Sample, Step, Told, Vitals, Worker};
use crate::file::filesystem::Place;
use crate::file::{liveness, trouble};
use crate::group::others;
use crate::group::transaction::Group;
use crate::rows::store::{self, known_application};
use crate::rows::{counts, events, links};

/// The seconds of a step, and for how many seconds its rows are kept. A step is a point of a plot;
/// seconds are for the levels of processes, which are added only if they are of the same one.
const STEPS: [(i64, i64); 4] = [(1, 15), (5, 900), (120, 6 * 3600), (3600, 7 * 24 * 3600)];
/// As `STEPS`, of the figures by name. Those of a day have histograms.
const MINUTE: (i64, i64) = (60, 3600);
const DAY: (i64, i64) = (24 * 3600, 7 * 24 * 3600);
/// The processes that have died and are remembered, and the tasks of each.
const LOST: i64 = 20;
const TASKS: u32 = 20;
/// How long a count of tasks is good for, at most.
const COUNTED: Duration = Duration::from_mins(1);

// --- Writing ------------------------------------------------------------------------

impl Group<'_> {
    /// Writes the samples of this process.
    pub(crate) fn write_samples(&mut self, samples: &[Sample]) -> trouble::Result<()> {
        for sample in samples {
            let application = self.application()?;
            let mut all = Figures::default();
            for (name, figures) in &sample.names {
                all.add(figures);
                add_figures(self.connection, application, sample.at, name, figures)?;
            }
            let known = find(self.connection, application, 1, sample.at)?;
            let mut levels = sample.levels.map(u64::from);
            if known.is_none() {
                // The first process of a second adds what no process has.
                let [ready, held] = self.count()?;
                levels[0] += ready;
                levels[1] += held;
                prune(self.connection, application, sample.at)?;
            }
            let levels = add_step(self.connection, application, 1, sample.at, &all, levels)?;
            for (step, _) in &STEPS[1..] {
                let at = sample.at - sample.at.rem_euclid(*step);
                add_step(self.connection, application, *step, at, &all, levels)?;
            }
            if let (Some(vitals), Some(slot)) = (&sample.vitals, self.memory.slot) {
                set_vitals(self.connection, slot, application, vitals, self.now)?;
            }
        }
        Ok(())
    }

    /// How many durable tasks wait for a worker, and for something else; not always counted anew.
    fn count(&mut self) -> trouble::Result<[u64; 2]> {
        let levels = self.memory.levels.get(COUNTED, || {
            let stats = counts::stats(self.connection)?;
            let held = stats.scheduled + stats.blocked + stats.parked;
            Ok([stats.ready, held])
        })?;
        Ok(*levels)
    }

    pub(crate) fn note_told(&mut self, told: &Told) -> trouble::Result<()> {
        match told {
            Told::About(about) => {
                if let Some(slot) = self.memory.slot {
                    let application = self.application()?;
                    let sql = "INSERT INTO worker (slot, application, pid, began_at, seen_at, about) \
                               SELECT slot, ?2, pid, began_at, ?3, ?4 FROM process WHERE slot = ?1 \
                               ON CONFLICT DO UPDATE SET about = excluded.about";
                    let values = params![slot, application, self.now, about];
                    self.connection.prepare_cached(sql)?.execute(values)?;
                }
            }
            Told::Act(id, verb, actor) => {
                if let Some(task) = store::place(self.connection, id)? {
                    let event = events::New {
                        kind: events::ACTED,
                        text: Some(verb),
                        actor: actor.as_deref(),
                    };
                    events::add(self.connection, task, self.now, &event)?;
                }
            }
            Told::Event(id, at, kind, text) => {
                if let Some(task) = store::place(self.connection, id)? {
                    let event = events::New::of(kind, Some(text));
                    events::add(self.connection, task, *at, &event)?;
                }
            }
        }
        Ok(())
    }
}

fn find(connection: &Connection, application: i64, step: i64, at: i64) -> Result<Option<Figures>> {
    let sql = "SELECT wait, run FROM sample WHERE application = ?1 AND step = ?2 AND at = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![application, step, at], |row| {
        Ok(Figures {
            wait: histogram(row, 0)?,
            run: histogram(row, 1)?,
            ..Figures::default()
        })
    });
    found.optional()
}

fn histogram(row: &rusqlite::Row<'_>, column: usize) -> Result<Histogram> {
    let bytes = row.get_ref(column)?.as_blob_or_null()?;
    Ok(bytes.map_or_else(Histogram::default, Histogram::decode))
}

/// Adds to a step; the levels that it has then.
fn add_step(
    connection: &Connection,
    application: i64,
    step: i64,
    at: i64,
    new: &Figures,
    levels: [u64; 3],
) -> Result<[u64; 3]> {
    let known = find(connection, application, step, at)?;
    if known.is_none() {
        // Nothing is added to this one any more, so its percentiles are enough.
        let sql = "UPDATE sample SET wait = NULL, run = NULL WHERE application = ?1 AND step = ?2 AND at = ?3";
        let values = params![application, step, at - 3 * step];
        connection.prepare_cached(sql)?.execute(values)?;
    }
    let mut all = known.unwrap_or_default();
    all.add(new);
    // Processes in the same second are added; a longer step has the most of its seconds.
    let sql = "INSERT INTO sample (application, step, at, done, failed, queued, held, running, wait, run, \
               wait_half, wait_most, run_half, run_most) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
               ON CONFLICT DO UPDATE SET done = done + excluded.done, failed = failed + excluded.failed, \
               queued = CASE step WHEN 1 THEN queued + excluded.queued ELSE max(queued, excluded.queued) END, \
               held = CASE step WHEN 1 THEN held + excluded.held ELSE max(held, excluded.held) END, \
               running = CASE step WHEN 1 THEN running + excluded.running ELSE max(running, excluded.running) END, \
               wait = excluded.wait, run = excluded.run, wait_half = excluded.wait_half, wait_most = excluded.wait_most, \
               run_half = excluded.run_half, run_most = excluded.run_most RETURNING queued, held, running";
    let typical = |times: &Histogram| (times.count() > 0).then(|| times.longest([50, 95]));
    let (wait, run) = (typical(&all.wait), typical(&all.run));
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![
        application,
        step,
        at,
        column(new.done),
        column(new.failed + new.dead),
        column(levels[0]),
        column(levels[1]),
        column(levels[2]),
        wait.map(|_| all.wait.encode()),
        run.map(|_| all.run.encode()),
        wait.map(|it| column(it[0])),
        wait.map(|it| column(it[1])),
        run.map(|it| column(it[0])),
        run.map(|it| column(it[1])),
    ];
    statement.query_row(values, |row| {
        Ok([number(row, 0)?, number(row, 1)?, number(row, 2)?])
    })
}

fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

fn add_figures(
    connection: &Connection,
    application: i64,
    at: i64,
    name: &str,
    new: &Figures,
) -> Result<()> {
    for (step, _) in [MINUTE, DAY] {
        let at = at - at.rem_euclid(step);
        let (mut wait, mut run) = (None, None);
        if step == DAY.0 {
            let sql = "SELECT wait, run FROM figure WHERE application = ?1 AND step = ?2 AND at = ?3 AND name = ?4";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_row(params![application, step, at, name], |row| {
                Ok((histogram(row, 0)?, histogram(row, 1)?))
            });
            let (mut waits, mut runs) = found.optional()?.unwrap_or_default();
            waits.add(&new.wait);
            runs.add(&new.run);
            (wait, run) = (Some(waits.encode()), Some(runs.encode()));
        }
        let sql = "INSERT INTO figure (application, step, at, name, done, failed, cancelled, retried, dead, wait, run) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
                   ON CONFLICT DO UPDATE SET done = done + excluded.done, failed = failed + excluded.failed, \
                   cancelled = cancelled + excluded.cancelled, retried = retried + excluded.retried, \
                   dead = dead + excluded.dead, wait = excluded.wait, run = excluded.run";
        connection.prepare_cached(sql)?.execute(params![
            application,
            step,
            at,
            name,
            column(new.done),
            column(new.failed),
            column(new.cancelled),
            column(new.retried),
            column(new.dead),
            wait,
            run,
        ])?;
    }
    Ok(())
}

/// Removes what is too old, in the first second of a step.
fn prune(connection: &Connection, application: i64, now: i64) -> Result<()> {
    let (step, _) = STEPS[1];
    if find(connection, application, step, now - now.rem_euclid(step))?.is_some() {
        return Ok(());
    }
    for (step, kept) in STEPS {
        let sql = "DELETE FROM sample WHERE application = ?1 AND step = ?2 AND at < ?3";
        let values = params![application, step, now - kept];
        connection.prepare_cached(sql)?.execute(values)?;
    }
    for (step, kept) in [MINUTE, DAY] {
        let sql = "DELETE FROM figure WHERE application = ?1 AND step = ?2 AND at < ?3";
        let values = params![application, step, now - kept];
        connection.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

fn set_vitals(
    connection: &Connection,
    slot: i64,
    application: i64,
    vitals: &Vitals,
    now: i64,
) -> Result<()> {
    let sql = "INSERT INTO worker (slot, application, pid, began_at, seen_at, about, threads, running, idle, waiting, stuck, memory) \
               SELECT slot, ?2, pid, began_at, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM process WHERE slot = ?1 \
               ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at, about = excluded.about, threads = excluded.threads, \
               running = excluded.running, idle = excluded.idle, waiting = excluded.waiting, stuck = excluded.stuck, \
               memory = excluded.memory";
    let [threads, running, idle, waiting, stuck] = vitals.threads;
    connection.prepare_cached(sql)?.execute(params![
        slot,
        application,
        now,
        vitals.about,
        threads,
        running,
        idle,
        waiting,
        stuck,
        vitals.memory.map(column),
    ])?;
    Ok(())
}

/// Forgets a process that has closed the journal.
pub(crate) fn forget(connection: &Connection, slot: i64) -> Result<()> {
    let sql = "DELETE FROM worker WHERE slot = ?1";
    connection.prepare_cached(sql)?.execute([slot])?;
    Ok(())
}

/// Remembers a process that has died, with the ids of the tasks that it ran.
pub(crate) fn lose(
    connection: &Connection,
    process: &store::Process,
    application: i64,
    tasks: &[String],
    now: i64,
) -> Result<()> {
    let tasks: Vec<_> = tasks
        .iter()
        .take(TASKS as usize)
        .map(String::as_str)
        .collect();
    let sql = "INSERT INTO worker (slot, application, pid, began_at, lost_at, tasks) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
               ON CONFLICT DO UPDATE SET lost_at = excluded.lost_at, tasks = excluded.tasks";
    connection.prepare_cached(sql)?.execute(params![
        process.slot,
        application,
        process.pid,
        process.began_at,
        now,
        tasks.join("\n")
    ])?;
    let sql = "DELETE FROM worker WHERE slot IN (SELECT slot FROM worker WHERE lost_at IS NOT NULL \
               ORDER BY lost_at DESC, slot DESC LIMIT -1 OFFSET ?1)";
    connection.prepare_cached(sql)?.execute([LOST])?;
    Ok(())
}

// --- Reading ------------------------------------------------------------------------

/// Answers a query. `slot` is that of this process.
pub(crate) fn answer(
    connection: &Connection,
    place: &Place,
    app: &str,
    slot: Option<i64>,
    query: &Query,
) -> Result<Answered> {
    let application = known_application(connection, app)?.unwrap_or_default();
    Ok(match query {
        Query::Steps(step) => Answered::Steps(steps(connection, application, *step)?),
        Query::Figures => Answered::Figures(figures(connection, application)?),
        Query::Minutes(since) => Answered::Minutes(minutes(connection, application, *since)?),
        Query::Workers => Answered::Workers(workers(connection, place, application, slot)?),
        Query::Events(id) => Answered::Events(events::of(connection, id)?),
        Query::Links(id) => Answered::Links(links::of(connection, id)?),
        Query::Others => Answered::Others(others::find(connection, place, application, slot)?),
    })
}

fn steps(connection: &Connection, application: i64, step: i64) -> Result<Vec<Step>> {
    let sql = "SELECT at, done, failed, queued, held, running, wait_half, wait_most, run_half, run_most FROM sample \
               WHERE application = ?1 AND step = ?2 ORDER BY at";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![application, step], |row| {
        let pair = |first: usize| -> Result<Option<[u64; 2]>> {
            let half: Option<i64> = row.get(first)?;
            let most: Option<i64> = row.get(first + 1)?;
            Ok(half
                .zip(most)
                .map(|(half, most)| [half.cast_unsigned(), most.cast_unsigned()]))
        };
        Ok(Step {
            at: row.get(0)?,
            ended: [number(row, 1)?, number(row, 2)?],
            levels: [number(row, 3)?, number(row, 4)?, number(row, 5)?],
            times: [pair(6)?, pair(8)?],
        })
    })?;
    rows.collect()
}

fn figures(connection: &Connection, application: i64) -> Result<Vec<(String, Figures)>> {
    let sql = "SELECT name, done, failed, cancelled, retried, dead, wait, run FROM figure \
               WHERE application = ?1 AND step = ?2 ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![application, DAY.0])?;
    let mut found: Vec<(String, Figures)> = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if found.last().is_none_or(|(last, _)| *last != name) {
            found.push((name, Figures::default()));
        }
        let Some((_, all)) = found.last_mut() else {
            continue;
        };
        all.done += number(row, 1)?;
        all.failed += number(row, 2)?;
        all.cancelled += number(row, 3)?;
        all.retried += number(row, 4)?;
        all.dead += number(row, 5)?;
        all.wait
            .add_encoded(row.get_ref(6)?.as_blob_or_null()?.unwrap_or_default());
        all.run
            .add_encoded(row.get_ref(7)?.as_blob_or_null()?.unwrap_or_default());
    }
    Ok(found)
}

fn minutes(
    connection: &Connection,
    application: i64,
    since: i64,
) -> Result<Vec<(String, i64, u64)>> {
    let sql = "SELECT name, at, done + failed + cancelled + dead FROM figure \
               WHERE application = ?1 AND step = ?2 AND at >= ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![application, MINUTE.0, since * 60], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)? / 60, number(row, 2)?))
    })?;
    rows.collect()
}

fn workers(
    connection: &Connection,
    place: &Place,
    application: i64,
    own: Option<i64>,
) -> Result<Vec<Worker>> {
    let sql = "SELECT slot, process.pid, process.claims, process.began_at, seen_at, about, threads, running, idle, waiting, \
               stuck, memory, NULL, NULL FROM process LEFT JOIN worker USING (slot) \
               WHERE coalesce(application, ?1) = ?1 AND (claims OR seen_at IS NOT NULL) \
               UNION ALL SELECT slot, pid, 0, began_at, seen_at, about, threads, running, idle, waiting, stuck, memory, \
               lost_at, tasks FROM worker WHERE application = ?1 AND lost_at IS NOT NULL ORDER BY slot";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([application])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let slot: i64 = row.get(0)?;
        let pid = row.get(1)?;
        let lost_at: Option<i64> = row.get(12)?;
        let is_own = Some(slot) == own;
        // Its death is found within a second; until then its lock tells.
        let is_dead =
            lost_at.is_none() && !is_own && liveness::is_dead(place, slot, pid).unwrap_or(false);
        let level =
            |column| -> Result<u32> { Ok(row.get::<_, Option<u32>>(column)?.unwrap_or_default()) };
        let tasks: Option<String> = row.get(13)?;
        let tasks = match tasks {
            Some(tasks) => tasks.lines().map(str::to_owned).collect(),
            None if is_dead => running(connection, slot)?,
            None => Vec::new(),
        };
        found.push(Worker {
            pid,
            claims: row.get(2)?,
            began_at: row.get(3)?,
            seen_at: row.get(4)?,
            vitals: Vitals {
                about: row.get::<_, Option<_>>(5)?.unwrap_or_default(),
                threads: [level(6)?, level(7)?, level(8)?, level(9)?, level(10)?],
                memory: row.get::<_, Option<i64>>(11)?.map(i64::cast_unsigned),
            },
            lost_at: lost_at.or_else(|| is_dead.then(crate::shared::clock::now)),
            tasks,
            is_own,
        });
    }
    Ok(found)
}

/// The ids of the tasks that a process runs.
fn running(connection: &Connection, slot: i64) -> Result<Vec<String>> {
    let sql = "SELECT id FROM task WHERE owner = ?1 AND state = 2 LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![slot, TASKS], |row| row.get(0))?;
    rows.collect()
}
