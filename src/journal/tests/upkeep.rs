//! What is left of tasks that were pruned, and what is saved of each damaged table.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use flask_delay_engine::Recurrence;
use flask_delay_journal::{
    Accepted, Before, Cancelled, Change, Filter, Follows, GATHER, How, Journal, Kept, Limits,
    NewTask, Outcome, RESULT, Retried, Salvaged, Settings, State, Tick, When, salvage,
};
use rusqlite::Connection;
use support::{
    Folder, Notes, again, claiming, finished, mine, now, settings, shell, task, until, watching,
    with,
};

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn tables(connection: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Tables in which a row belongs to none of another table.
const OF_NOTHING: [&str; 4] = ["application", "forgotten", "meta", "process"];
/// The rows that belong to a row of another table, but whose number none has.
const STRAY: [(&str, &str); 20] = [
    (
        "command",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "sample",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "figure",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "worker",
        "application NOT IN (SELECT application FROM application)",
    ),
    ("event", "task NOT IN (SELECT sequence FROM task)"),
    (
        "rate",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "periodic",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "paused",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "paused",
        "function <> 0 AND function NOT IN (SELECT function FROM function)",
    ),
    ("task", "function NOT IN (SELECT function FROM function)"),
    (
        "task",
        "application NOT IN (SELECT application FROM application)",
    ),
    (
        "function",
        "application NOT IN (SELECT application FROM application)",
    ),
    ("body", "task NOT IN (SELECT sequence FROM task)"),
    ("checkpoint", "task NOT IN (SELECT sequence FROM task)"),
    ("step", "task NOT IN (SELECT sequence FROM task)"),
    ("dependency", "task NOT IN (SELECT sequence FROM task)"),
    (
        "dependency",
        "predecessor NOT IN (SELECT sequence FROM task)",
    ),
    (
        "waiter",
        "task NOT IN (SELECT sequence FROM task) OR slot NOT IN (SELECT slot FROM process)",
    ),
    ("start", "rate NOT IN (SELECT rate FROM rate)"),
    (
        "known",
        "function NOT IN (SELECT function FROM function) OR slot NOT IN (SELECT slot FROM process)",
    ),
];

/// The rows that belong to nothing: a row with the number that they name would get them.
#[track_caller]
fn assert_nothing_strays(file: &Connection, what: &str) {
    let mut known: Vec<_> = STRAY.iter().map(|(table, _)| *table).collect();
    known.extend(OF_NOTHING);
    known.sort_unstable();
    known.dedup();
    assert_eq!(
        tables(file),
        known,
        "say what a row of a new table belongs to"
    );
    for (table, condition) in STRAY {
        let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
        assert_eq!(number(file, &sql), 0, "{what}: {table} where {condition}");
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        error: "{}".to_owned(),
    }
}

fn after(tasks: Vec<Before>, how: How) -> NewTask {
    NewTask {
        arguments: format!("{RESULT}{}", "x".repeat(3_000)),
        follows: Some(Follows {
            tasks,
            how,
            countdown: None,
        }),
        ..task()
    }
}

/// Ends tasks until none is claimed any more; the first attempt of those with that id fails.
fn work(journal: &Journal, notes: &Notes, failing: &str) -> bool {
    let mut has_failed = false;
    while journal.stats().unwrap().ready + journal.stats().unwrap().running > 0 {
        if notes.left().0 == 0 {
            thread::yield_now();
            continue;
        }
        let claimed = notes.claimed();
        let claim = claimed.claim;
        journal.checkpoint(claim, 0, "1".to_owned());
        journal.checkpoint(claim, 1, "2".to_owned());
        journal
            .step(claim, "charge".to_owned(), "3".to_owned())
            .unwrap();
        let fails = claimed.id == failing && claim.attempt == 1;
        has_failed |= fails;
        let outcome = if fails { failed() } else { finished() };
        journal.change(claim, Change::End(outcome)).unwrap();
    }
    has_failed
}

/// Has a bit of everything done, and worked off by `journal`; `web` submits and waits for it.
fn do_all(web: &Journal, journal: &Journal, notes: &Notes) {
    let submit = |task: NewTask| {
        let id = task.id.clone();
        assert_eq!(web.submit(task).unwrap(), Accepted::Waiting);
        web.watch(&id).unwrap();
        id
    };
    let before = |id: &str| vec![Before::Id(id.to_owned())];
    for number in 0..20 {
        submit(NewTask {
            arguments: "x".repeat(3_000),
            unique: Some(format!("unique {number}")),
            once: Some(format!("once {number}")),
            limits: Some(Box::new(Limits {
                key: format!("lane {}", number % 4),
                limit: Some(2),
                rate: Some((100, 1_000)),
            })),
            ..task()
        });
    }
    // A chain, what is gathered, and clean-up after it.
    let chain = vec![task(), after(vec![Before::Place(0)], How::Success)];
    let ids: Vec<_> = chain.iter().map(|it| it.id.clone()).collect();
    assert_eq!(web.submit_all(chain).unwrap().refused, None);
    let gathered = NewTask {
        function: GATHER.to_owned(),
        ..after(
            ids.iter().map(|it| Before::Id(it.clone())).collect(),
            How::Gather,
        )
    };
    let gathered = submit(gathered);
    submit(after(before(&gathered), How::End));
    // One that fails, with what follows it; and one that is cancelled.
    let failing = submit(task());
    let follower = submit(after(before(&failing), How::Success));
    submit(after(before(&follower), How::Success));
    submit(after(before(&failing), How::End));
    let unwanted = submit(NewTask {
        due: Some(now() + 3_600_000_000),
        ..task()
    });
    submit(after(before(&unwanted), How::Success));
    assert_eq!(web.cancel(&unwanted).unwrap(), Cancelled::Yes);
    // A job, and functions that are paused.
    let tick = Tick {
        job: "tidy".to_owned(),
        name: "shop.tidy".to_owned(),
        recurrence: Recurrence::every(Duration::from_secs(1)).unwrap(),
        when: When::Now,
        is_alone: true,
        over: None,
    };
    web.tick(tick.clone(), Some(task())).unwrap();
    web.pause(Some("send")).unwrap();
    submit(task());
    web.pause(None).unwrap();
    web.resume(None).unwrap();
    assert!(work(journal, notes, &failing));
    assert_eq!(web.retry(&failing).unwrap(), Retried::Yes);
    assert!(!work(journal, notes, &failing));
}

#[test]
fn nothing_is_left_of_pruned_tasks() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let (journal, notes) = claiming(&folder, 2);
    let file = shell(&folder);
    do_all(&web, &journal, &notes);
    assert_nothing_strays(&file, "all have ended");
    let counts = |table: &str| number(&file, &format!("SELECT count(*) FROM {table}"));
    for table in ["body", "checkpoint", "step", "start", "rate", "periodic"] {
        assert!(counts(table) > 0, "{table}");
    }
    // By hand some, and all the others as they become old.
    assert!(
        web.prune(&Filter {
            states: vec![State::Finished],
            ..Filter::default()
        })
        .unwrap()
            > 20
    );
    assert_nothing_strays(&file, "some were pruned");
    let all = counts("task") + counts("forgotten");
    let keep = Duration::ZERO;
    let (keeper, _) = with(
        Settings {
            keep,
            ..settings(&folder.database())
        },
        0,
    );
    keeper.start().unwrap();
    let left = || -> Vec<String> {
        let all = tables(&file).into_iter();
        all.filter(|it| counts(it) > 0).collect()
    };
    until(|| counts("task") == 0 && counts("rate") == 0);
    assert_nothing_strays(&file, "all were pruned");
    let names = [
        "application",
        "forgotten",
        "function",
        "known",
        "meta",
        "periodic",
        "process",
    ];
    until(|| left() == names);
    assert_eq!(counts("forgotten"), all);
    // "send", and what gathers.
    assert_eq!(counts("function"), 2);
    journal.close();
    web.close();
    keeper.close();
    assert_eq!((counts("process"), counts("known")), (0, 0));
}

/// As many rows in each table as fill several pages.
const ROWS: i64 = 1_000;
/// The tables, and how each gets a row for each task. The functions and applications from 2 on are those
/// of no task.
const FILLED: [(&str, &str); 18] = [
    (
        "command",
        "INSERT INTO command (application, given_at, verb, target, sender) SELECT 1, 0, 'stop', text, 1 FROM numbers",
    ),
    (
        "event",
        "INSERT INTO event (task, at, kind, text, pid) SELECT value, 0, 'started', text, 1 FROM numbers",
    ),
    (
        "sample",
        "INSERT INTO sample (application, step, at, done, failed, queued, held, running, wait) \
         SELECT 1, 1, value, 0, 0, 0, 0, 0, CAST(text AS BLOB) FROM numbers",
    ),
    (
        "figure",
        "INSERT INTO figure (application, step, at, name, done, failed, cancelled, retried, dead) \
         SELECT 1, 60, value, text, 0, 0, 0, 0, 0 FROM numbers",
    ),
    (
        "worker",
        "INSERT INTO worker (slot, application, pid, began_at, about) SELECT value, 1, 1, 0, text FROM numbers",
    ),
    (
        "application",
        "INSERT INTO application (application, name) SELECT value + 1, 'shop ' || value || text FROM numbers",
    ),
    (
        "function",
        "INSERT INTO function (function, application, name) SELECT value * 100000, 1, 'send ' || value || text FROM numbers",
    ),
    (
        "task",
        "INSERT INTO task (id, state, application, function, pool, rank, submitted_at, ended_at, result) \
         SELECT 'task ' || value, 6, 1, 1, 0, 0, 0, 0, text FROM numbers",
    ),
    (
        "body",
        "INSERT INTO body (task, arguments) SELECT value, text FROM numbers",
    ),
    (
        "checkpoint",
        "INSERT INTO checkpoint (task, place, value) SELECT value, 0, text FROM numbers",
    ),
    (
        "step",
        "INSERT INTO step (task, name, result) SELECT value, 'charge', text FROM numbers",
    ),
    (
        "dependency",
        "INSERT INTO dependency (predecessor, task, place) SELECT value, value, 0 FROM numbers",
    ),
    (
        "rate",
        "INSERT INTO rate (limit_key, application, number, most, span, last, until) \
         SELECT 'rate ' || value || text, 1, 1, 10, 1, 0, 0 FROM numbers",
    ),
    (
        "start",
        "INSERT INTO start (rate, number, at) SELECT value, 0, 0 FROM numbers",
    ),
    (
        "periodic",
        "INSERT INTO periodic (application, job, name, runs, left_out, paused) \
         SELECT 1, 'periodic ' || value || text, '', 0, 0, 0 FROM numbers",
    ),
    (
        "paused",
        "INSERT INTO paused (application, function) SELECT 1, value * 100000 FROM numbers",
    ),
    (
        "forgotten",
        "INSERT INTO forgotten (id, ended_at) SELECT 'forgotten ' || value || text, 0 FROM numbers",
    ),
    (
        "waiter",
        "INSERT INTO waiter (task, slot) SELECT value, 1 FROM numbers",
    ),
];
/// The tables that a copy has without rows: they are those of processes.
const OF_PROCESSES: [&str; 5] = ["command", "known", "process", "waiter", "worker"];

/// A journal without processes: the application 1 is that of these tests, its function 1 is "send".
fn journal() -> Folder {
    let folder = Folder::new();
    let (journal, _) = with(settings(&folder.database()), 1);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    until(|| number(&shell(&folder), "SELECT count(*) FROM known") == 1);
    journal.close();
    let file = shell(&folder);
    assert_eq!(number(&file, "SELECT function FROM function"), 1);
    file.execute_batch(&format!(
        "BEGIN; CREATE TEMP TABLE numbers AS WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {ROWS}) \
         SELECT value, hex(zeroblob(40)) AS text FROM n"
    ))
    .unwrap();
    for (table, sql) in FILLED {
        let filled = file.execute_batch(sql);
        filled.unwrap_or_else(|error| panic!("{table}: {error}"));
    }
    file.execute_batch("COMMIT").unwrap();
    folder
}

/// The pages without children of a table or index, in its order.
fn leaves(folder: &Folder, name: &str) -> Vec<u64> {
    let file = shell(folder);
    assert_eq!(number(&file, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'");
    let root = number(&file, &sql).cast_unsigned();
    let bytes = std::fs::read(folder.database()).unwrap();
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(page) = next.pop() {
        let start = usize::try_from(page - 1).unwrap() * 4096;
        let page_bytes = &bytes[start..start + 4096];
        let short = |at: usize| u16::from_be_bytes(page_bytes[at..at + 2].try_into().unwrap());
        let long = |at: usize| u32::from_be_bytes(page_bytes[at..at + 4].try_into().unwrap());
        if matches!(page_bytes[0], 10 | 13) {
            found.push(page);
            continue;
        }
        let cells = 0..usize::from(short(3));
        let children = cells.map(|cell| long(usize::from(short(12 + 2 * cell))));
        let mut children: Vec<u64> = children.chain([long(8)]).map(u64::from).collect();
        children.reverse();
        next.extend(children);
    }
    found
}

/// Damages some pages.
fn damage(folder: &Folder, pages: &[u64]) {
    let raw = std::fs::File::options()
        .write(true)
        .open(folder.database())
        .unwrap();
    for page in pages {
        raw.write_all_at(&[0xee; 4096], (page - 1) * 4096).unwrap();
    }
}

/// How many rows there are in a table.
fn count(connection: &Connection, table: &str) -> i64 {
    number(connection, &format!("SELECT count(*) FROM {table}"))
}

#[test]
fn what_is_saved_of_each_damaged_table() {
    let folder = journal();
    let bytes = std::fs::read(folder.database()).unwrap();
    let file = shell(&folder);
    let filled: Vec<_> = FILLED.map(|(table, _)| table).to_vec();
    let mut all = tables(&file);
    all.retain(|it| !filled.contains(&it.as_str()));
    assert_eq!(all, ["known", "meta", "process"], "fill the new table too");
    let before: HashMap<_, _> = filled.iter().map(|it| (*it, count(&file, it))).collect();
    drop(file);
    // Each is damaged once, and sound beside others that are not.
    let damages = [
        vec![
            "application",
            "body",
            "step",
            "rate",
            "periodic",
            "waiter",
            "sample",
            "worker",
            "command",
        ],
        vec![
            "function",
            "checkpoint",
            "dependency",
            "start",
            "paused",
            "forgotten",
            "event",
            "figure",
        ],
        vec!["task"],
    ];
    assert_eq!(damages.concat().len(), filled.len());
    for damaged in damages {
        std::fs::write(folder.database(), &bytes).unwrap();
        for table in &damaged {
            let leaves = leaves(&folder, table);
            assert!(leaves.len() > 2, "{table}: {leaves:?}");
            damage(&folder, &[leaves[leaves.len() / 2]]);
        }
        let to = folder.path().join(format!("without {}.db", damaged[0]));
        let done = salvage(&folder.database(), &to).unwrap();
        assert!(done.lost > 0, "{damaged:?}: {done:?}");
        // The rows without a number: none knows how many there were.
        assert_eq!(done.is_partial, damaged[0] != "task", "{damaged:?}");
        let saved = Connection::open(&to).unwrap();
        for (table, before) in &before {
            let left = count(&saved, table);
            // Rows of a lost one go with it.
            let of = match *table {
                "body" | "checkpoint" | "step" | "dependency" | "event" => "task",
                "start" => "rate",
                other => other,
            };
            if OF_PROCESSES.contains(table) {
                assert_eq!(left, 0, "{table}");
            } else if matches!(*table, "application" | "function") {
                // An index has all that there is to know of these.
                assert_eq!(left, *before, "{table}, without {damaged:?}");
            } else if damaged.contains(table) || damaged.contains(&of) {
                // A page has some hundred rows at most.
                let is_part = (before - 500..*before).contains(&left);
                assert!(is_part, "{table}, without {damaged:?}: {left}");
            } else {
                assert_eq!(left, *before, "{table}, without {damaged:?}");
            }
        }
        assert_nothing_strays(&saved, damaged[0]);
    }
}

/// What was salvaged from a journal, in its place.
fn salvaged(folder: &Folder) -> (Folder, Salvaged) {
    let other = Folder::new();
    let done = salvage(&folder.database(), &other.database()).unwrap();
    (other, done)
}

#[test]
fn a_new_task_has_nothing_of_a_lost_one() {
    let folder = journal();
    let last = *leaves(&folder, "task").last().unwrap();
    damage(&folder, &[last]);
    let (folder, done) = salvaged(&folder);
    assert!(done.lost > 0, "{done:?}");
    let (journal, notes) = claiming(&folder, 1);
    let new = NewTask {
        arguments: "x".repeat(3_000),
        ..task()
    };
    let claim = mine(journal.submit(new).unwrap());
    assert!(claim.task <= ROWS, "its number was that of a lost one");
    journal.change(claim, again()).unwrap();
    let claimed = notes.claimed();
    assert_eq!(claimed.arguments.len(), 3_000);
    assert_eq!(claimed.kept, Kept::default());
    journal
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    journal.close();
}

#[test]
fn a_new_lane_has_nothing_of_a_lost_one() {
    let folder = journal();
    let last = *leaves(&folder, "rate").last().unwrap();
    damage(&folder, &[last]);
    let (folder, done) = salvaged(&folder);
    assert!(done.lost > 0, "{done:?}");
    let (journal, _) = claiming(&folder, 1);
    let limits = Limits {
        key: "mailbox".to_owned(),
        limit: None,
        rate: Some((10, 1_000_000)),
    };
    let new = NewTask {
        limits: Some(Box::new(limits)),
        ..task()
    };
    let claim = mine(journal.submit(new).unwrap());
    journal.change(claim, Change::End(finished())).unwrap();
    journal.close();
}

#[test]
fn no_task_runs_as_another_function_when_the_names_are_lost() {
    let folder = journal();
    let file = shell(&folder);
    file.execute_batch(
        "UPDATE task SET state = 0, function = 2, arguments = 'x' WHERE sequence = 1",
    )
    .unwrap();
    drop(file);
    for name in ["function", "application"] {
        let mut pages = leaves(&folder, name);
        pages.extend(leaves(&folder, &format!("sqlite_autoindex_{name}_1")));
        damage(&folder, &pages);
    }
    let (folder, done) = salvaged(&folder);
    assert!(done.is_partial, "{done:?}");
    let file = shell(&folder);
    assert_nothing_strays(&file, "names");
    let (journal, notes) = with(settings(&folder.database()), 2);
    // One of them would get the number of the lost one.
    journal.know(vec!["other".to_owned(), "send".to_owned()]);
    journal.start().unwrap();
    let new = task();
    mine(journal.submit(new).unwrap());
    assert_eq!(notes.left().0, 0);
    assert_eq!(
        number(&file, "SELECT state FROM task WHERE sequence = 1"),
        0
    );
    journal.close();
}

#[test]
fn a_task_whose_arguments_are_lost_fails() {
    let folder = journal();
    let file = shell(&folder);
    file.execute_batch(
        "UPDATE task SET state = 0, result = NULL, ended_at = NULL WHERE sequence % 2; \
         DELETE FROM dependency WHERE task > 10",
    )
    .unwrap();
    drop(file);
    let pages = leaves(&folder, "body");
    damage(&folder, &pages[3..4]);
    let (folder, done) = salvaged(&folder);
    let file = shell(&folder);
    let lost = "arguments IS NULL AND NOT EXISTS (SELECT 1 FROM body WHERE task = sequence)";
    let unable = number(&file, &format!("SELECT count(*) FROM task WHERE {lost}"));
    assert!((10..200).contains(&unable), "{unable}");
    assert_eq!(done.lost, unable.cast_unsigned());
    assert!(!done.is_partial);
    let failed = number(
        &file,
        "SELECT count(*) FROM task WHERE state = 7 AND error LIKE '%its arguments are lost%'",
    );
    assert!(
        (unable / 2 - 1..=unable / 2 + 1).contains(&failed),
        "{failed}"
    );
    let sql = format!("SELECT count(*) FROM task WHERE state = 0 AND {lost}");
    assert_eq!(number(&file, &sql), 0);
    let id: String = file
        .query_row("SELECT id FROM task WHERE state = 7", [], |row| row.get(0))
        .unwrap();
    // There is nothing to run it with.
    let (web, _) = watching(&folder);
    assert_eq!(web.retry(&id).unwrap(), Retried::Plain);
    web.close();
}
