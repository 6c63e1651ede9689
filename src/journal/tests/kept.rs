//! Checkpoints and steps: what the next attempt of a task has of those before.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use flask_delay_journal::{Change, Changed, Claim, Claimed, Journal, Kept, NewTask, Settings};
use process::{Actor, role, wait_for_end};
use rusqlite::Connection;
use support::{
    Folder, again, claiming, finished, mine, say, settings, task, until, watching, with,
};

type Pairs<'a, T> = Vec<(T, &'a str)>;

/// Checkpoints and steps as a claim brings them, in order.
fn kept(claimed: &Claimed) -> (Pairs<'_, u32>, Pairs<'_, &str>) {
    let Kept { checkpoints, steps } = &claimed.kept;
    let mut checkpoints: Vec<_> = checkpoints
        .iter()
        .map(|(it, text)| (*it, &**text))
        .collect();
    let mut steps: Vec<_> = steps.iter().map(|(it, text)| (&**it, &**text)).collect();
    checkpoints.sort_unstable();
    steps.sort_unstable();
    (checkpoints, steps)
}

fn step(journal: &Journal, claim: Claim, name: &str, result: &str) -> Changed {
    journal
        .step(claim, name.to_owned(), result.to_owned())
        .unwrap()
}

fn count(file: &Path, table: &str) -> i64 {
    let connection = Connection::open(file).unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    connection.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn the_next_attempt_has_the_last_checkpoint_of_each_place_and_all_steps() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    for value in 0..100 {
        journal.checkpoint(claim, 0, value.to_string());
    }
    journal.checkpoint(claim, 2, "7".to_owned());
    assert_eq!(step(&journal, claim, "charge", "[1]"), Changed::Done);
    assert_eq!(step(&journal, claim, "mail", "null"), Changed::Done);
    journal.checkpoint(claim, 0, "100".to_owned());
    journal.change(claim, again()).unwrap();
    let second = notes.claimed();
    let steps = vec![("charge", "[1]"), ("mail", "null")];
    assert_eq!(kept(&second), (vec![(0, "100"), (2, "7")], steps.clone()));
    // What it adds nothing to stays, also if the attempt is not counted.
    journal.checkpoint(second.claim, 2, "8".to_owned());
    journal.change(second.claim, Change::PutBack).unwrap();
    let third = notes.claimed();
    assert_eq!(third.claim.attempt, 2);
    assert_eq!(kept(&third), (vec![(0, "100"), (2, "8")], steps));
    journal
        .change(third.claim, Change::End(finished()))
        .unwrap();
    journal.close();
}

#[test]
fn a_task_has_only_its_own() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    for rank in 0..2 {
        web.submit(NewTask { rank, ..task() }).unwrap();
    }
    let (journal, notes) = claiming(&folder, 2);
    let (one, two) = (notes.claimed(), notes.claimed());
    assert_eq!(kept(&one), (vec![], vec![]));
    journal.checkpoint(one.claim, 0, "1".to_owned());
    step(&journal, one.claim, "charge", "1");
    for claimed in [&one, &two] {
        journal.change(claimed.claim, Change::PutBack).unwrap();
    }
    let mut again = [notes.claimed(), notes.claimed()];
    again.sort_by_key(|it| it.claim.task);
    assert_eq!(kept(&again[0]), (vec![(0, "1")], vec![("charge", "1")]));
    assert_eq!(kept(&again[1]), (vec![], vec![]));
    journal.close();
    web.close();
}

#[test]
fn an_earlier_claim_keeps_nothing() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let first = mine(journal.submit(task()).unwrap());
    journal.change(first, again()).unwrap();
    let second = notes.claimed();
    journal.checkpoint(first, 0, "\"late\"".to_owned());
    assert_eq!(step(&journal, first, "late", "1"), Changed::Fenced);
    notes.reported("is dropped");
    journal.change(second.claim, Change::PutBack).unwrap();
    assert_eq!(kept(&notes.claimed()), (vec![], vec![]));
    journal.close();
}

#[test]
fn a_checkpoint_is_written_although_nothing_follows() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    for value in ["1", "2"] {
        journal.checkpoint(claim, 0, value.to_owned());
        until(|| {
            let connection = Connection::open(folder.database()).unwrap();
            let sql = "SELECT value FROM checkpoint";
            connection.query_row(sql, [], |row| row.get::<_, String>(0)) == Ok(value.to_owned())
        });
    }
    journal.close();
}

#[test]
fn the_result_of_a_step_is_told_later() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    let (sender, told) = mpsc::channel();
    let then = move |changed| sender.send(changed).unwrap();
    journal.step_later(claim, "charge".to_owned(), "1".to_owned(), Box::new(then));
    assert_eq!(told.recv().unwrap(), Ok(Changed::Done));
    assert_eq!(count(&folder.database(), "step"), 1);
    journal.change(claim, Change::PutBack).unwrap();
    assert_eq!(kept(&notes.claimed()).1, [("charge", "1")]);
    journal.close();
}

#[test]
fn what_was_kept_goes_with_its_task() {
    let folder = Folder::new();
    let settings = Settings {
        keep: Duration::ZERO,
        ..settings(&folder.database())
    };
    let (journal, _) = with(settings, 1);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    let claim = mine(journal.submit(task()).unwrap());
    journal.checkpoint(claim, 0, "1".to_owned());
    step(&journal, claim, "charge", "1");
    for table in ["checkpoint", "step"] {
        assert_eq!(count(&folder.database(), table), 1);
    }
    journal.change(claim, Change::End(finished())).unwrap();
    for table in ["task", "checkpoint", "step"] {
        until(|| count(&folder.database(), table) == 0);
    }
    journal.close();
}

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    let (journal, notes) = with(settings(&folder.join("journal.db")), 1);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    let claim = notes.claimed().claim;
    journal.checkpoint(claim, 0, "1".to_owned());
    step(&journal, claim, "charge", "1");
    match role.as_str() {
        "die" => {
            say("kept");
            process::die();
        }
        "leave" => {
            journal.checkpoint(claim, 0, "2".to_owned());
            journal.close();
            say("kept");
            wait_for_end();
        }
        other => panic!("no role {other}"),
    }
}

/// What was told before a step is there when the process dies after it; and when it leaves, all.
#[test]
fn another_process_has_what_a_dead_one_has_kept() {
    for (role, last) in [("die", "1"), ("leave", "2")] {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        web.submit(task()).unwrap();
        let mut actor = Actor::start(role, folder.path());
        actor.hear("kept");
        let (journal, notes) = claiming(&folder, 1);
        if role == "leave" {
            actor.end();
        }
        let claimed = notes.claimed();
        assert_eq!(kept(&claimed), (vec![(0, last)], vec![("charge", "1")]));
        journal.close();
        web.close();
    }
}
