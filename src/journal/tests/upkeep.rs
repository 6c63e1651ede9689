//! What is left of tasks that were pruned, and what is saved of each damaged table.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use flask_delay_journal::{Change, NewTask, Settings, salvage};
use rusqlite::Connection;
use support::{Folder, finished, mine, settings, shell, task, until, watching, with};

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn tables(connection: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn nothing_is_left_of_pruned_tasks() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let (journal, _) = with(
        Settings {
            keep: Duration::ZERO,
            ..settings(&folder.database())
        },
        1,
    );
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    for number in 0..20 {
        let task = NewTask {
            arguments: "x".repeat(3_000),
            unique: Some(format!("unique {number}")),
            once: Some(format!("once {number}")),
            ..task()
        };
        let claim = mine(journal.submit(task.clone()).unwrap());
        web.watch(&task.id).unwrap();
        journal.checkpoint(claim, 0, "1".to_owned());
        journal.checkpoint(claim, 1, "2".to_owned());
        journal
            .step(claim, "charge".to_owned(), "3".to_owned())
            .unwrap();
        journal.change(claim, Change::End(finished())).unwrap();
    }
    let file = shell(&folder);
    let kept = [
        "application",
        "forgotten",
        "function",
        "known",
        "meta",
        "process",
    ];
    let left = || -> Vec<(String, i64)> {
        let tables = tables(&file).into_iter();
        let others = tables.filter(|it| !kept.contains(&it.as_str()));
        others
            .map(|it| {
                (
                    it.clone(),
                    number(&file, &format!("SELECT count(*) FROM {it}")),
                )
            })
            .filter(|(_, count)| *count > 0)
            .collect()
    };
    until(|| left().is_empty());
    assert_eq!(number(&file, "SELECT count(*) FROM forgotten"), 20);
    assert_eq!(number(&file, "SELECT count(*) FROM function"), 1);
    journal.close();
    web.close();
    assert_eq!(number(&file, "SELECT count(*) FROM process"), 0);
    assert_eq!(number(&file, "SELECT count(*) FROM known"), 0);
}

/// As many rows in each table as fill several pages.
const ROWS: i64 = 600;
/// The tables with a row for each task, how a row is filled, and what its text begins with.
const FILLED: [(&str, &str); 6] = [
    (
        "task",
        "INSERT INTO task (id, state, application, function, pool, rank, submitted_at, ended_at, result) \
         SELECT 'task ' || value, 6, 1, 1, 0, 0, 0, 0, hex(zeroblob(40)) FROM numbers",
    ),
    (
        "body",
        "INSERT INTO body (task, arguments) SELECT value, 'body ' || value || hex(zeroblob(40)) FROM numbers",
    ),
    (
        "checkpoint",
        "INSERT INTO checkpoint (task, place, value) SELECT value, 0, 'checkpoint ' || value || hex(zeroblob(40)) FROM numbers",
    ),
    (
        "step",
        "INSERT INTO step (task, name, result) SELECT value, 'charge', 'step ' || value || hex(zeroblob(40)) FROM numbers",
    ),
    (
        "periodic",
        "INSERT INTO periodic (application, job, name, runs, left_out, paused) \
         SELECT 1, 'periodic ' || value || hex(zeroblob(40)), '', 0, 0, 0 FROM numbers",
    ),
    (
        "forgotten",
        "INSERT INTO forgotten (id, ended_at) SELECT 'forgotten ' || value || hex(zeroblob(40)), 0 FROM numbers",
    ),
];

#[test]
fn what_is_saved_of_each_damaged_table() {
    for (damaged, _) in FILLED {
        let folder = Folder::new();
        watching(&folder).0.close();
        let file = shell(&folder);
        file.execute_batch(&format!(
            "CREATE TEMP TABLE numbers AS WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {ROWS}) \
             SELECT value FROM n"
        ))
        .unwrap();
        for (_, sql) in FILLED {
            file.execute_batch(sql).unwrap();
        }
        let busy = number(&file, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!(busy, 0);
        drop(file);
        // A leaf of the table: 13, or 10 where it is an index itself; the texts are its rows'.
        let bytes = std::fs::read(folder.database()).unwrap();
        let text = format!("{damaged} 3");
        let page = bytes.chunks(4096).position(|page| {
            let is_leaf = page[0]
                == if matches!(damaged, "checkpoint" | "step" | "periodic") {
                    10
                } else {
                    13
                };
            is_leaf && page.windows(text.len()).any(|it| it == text.as_bytes())
        });
        let page = page.unwrap_or_else(|| panic!("no page of {damaged}"));
        let raw = std::fs::File::options()
            .write(true)
            .open(folder.database())
            .unwrap();
        raw.write_all_at(&[0xee; 4096], page as u64 * 4096).unwrap();
        let to = folder.path().join("saved.db");
        let done = salvage(&folder.database(), &to).unwrap();
        assert!(done.lost > 0 || done.is_partial, "{damaged}: {done:?}");
        let saved = Connection::open(&to).unwrap();
        for (table, _) in FILLED {
            let count = number(&saved, &format!("SELECT count(*) FROM {table}"));
            if table == damaged {
                // A page has some tens of rows.
                assert!((ROWS - 100..ROWS).contains(&count), "{table}: {count}");
            } else {
                assert_eq!(count, ROWS, "{table}, with {damaged} damaged");
            }
        }
    }
}
