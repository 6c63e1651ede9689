//! Plain tasks and durable ones of a key share one line, and a permit goes with its process.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_journal::{
    Change, Claim, Error, ErrorKind, Filter, Found, Journal, Limits, NewPermit, NewTask, Permit,
    State,
};
use process::{Actor, role, wait_for_end};
use support::{
    Folder, LONG, claiming, finished, mine, now, row, say, shell, task, until, watching,
};

/// In microseconds.
const SECOND: u64 = 1_000_000;

fn limited(key: &str, limit: u64) -> Limits {
    Limits {
        key: key.to_owned(),
        limit: Some(limit),
        rate: None,
    }
}

fn durable(limits: Limits) -> NewTask {
    NewTask {
        limits: Some(Box::new(limits)),
        ..task()
    }
}

fn end(journal: &Journal, claim: Claim) {
    journal.change(claim, Change::End(finished())).unwrap();
}

/// A permit that was asked for.
struct Asked {
    permit: Permit,
    answer: Receiver<Result<bool, Error>>,
}

impl Asked {
    fn at(journal: &Journal, limits: Limits, rank: i64) -> Self {
        let permit = Permit::new();
        let (sender, answer) = channel();
        let new = NewPermit {
            permit,
            function: "fetch".to_owned(),
            rank,
            limits,
        };
        journal.enter(new, Box::new(move |granted| _ = sender.send(granted)));
        Self { permit, answer }
    }

    fn of(journal: &Journal, limits: Limits) -> Self {
        Self::at(journal, limits, now())
    }

    #[track_caller]
    fn said(&self) -> Result<bool, Error> {
        self.answer.recv_timeout(LONG).unwrap()
    }

    #[track_caller]
    fn granted(&self) {
        assert_eq!(self.said(), Ok(true));
    }

    /// Whether it waits still, when all that was sent before is done.
    #[track_caller]
    fn waits(&self, journal: &Journal) {
        journal.resume(Some("none")).unwrap();
        assert!(self.answer.try_recv().is_err());
    }
}

fn permits(folder: &Folder) -> i64 {
    let sql = "SELECT count(*) FROM task WHERE published = 2";
    shell(folder).query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn permits_of_two_processes_go_by_rank() {
    let folder = Folder::new();
    let [(one, _), (two, _)] = [watching(&folder), watching(&folder)];
    let first = Asked::of(&one, limited("k", 1));
    first.granted();
    let late = Asked::of(&two, limited("k", 1));
    let early = Asked::at(&one, limited("k", 1), now() - 10_000_000);
    late.waits(&two);
    early.waits(&one);
    // Another key passes them.
    let other = Asked::of(&two, limited("l", 1));
    other.granted();
    one.leave(first.permit);
    early.granted();
    late.waits(&two);
    one.leave(early.permit);
    late.granted();
    two.leave(late.permit);
    two.leave(other.permit);
    until(|| permits(&folder) == 0);
    // What is not there does no harm.
    two.leave(late.permit);
    one.leave(Permit::new());
    one.close();
    two.close();
}

#[test]
fn permits_and_durable_tasks_share_a_line() {
    let folder = Folder::new();
    let [(one, of_one), (two, _)] = [claiming(&folder, 3), watching(&folder)];
    let claim = mine(one.submit(durable(limited("k", 1))).unwrap());
    let permit = Asked::of(&two, limited("k", 1));
    permit.waits(&two);
    let later = durable(limited("k", 1));
    one.submit(later.clone()).unwrap();
    assert_eq!(row(&one, &later.id).state, State::Blocked);
    end(&one, claim);
    permit.granted();
    assert_eq!(row(&one, &later.id).state, State::Blocked);
    assert_eq!(row(&one, &later.id).held().unwrap().running, 1);
    assert_eq!(of_one.left().0, 0);
    two.leave(permit.permit);
    let claimed = of_one.claimed();
    assert_eq!(claimed.id, later.id);
    end(&one, claimed.claim);
    one.close();
    two.close();
}

#[test]
fn a_rate_lets_permits_start_without_a_process_that_claims() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let rate = || Limits {
        key: "k".to_owned(),
        limit: None,
        rate: Some((2, SECOND / 2)),
    };
    let began = Instant::now();
    let asked: Vec<_> = (0..5).map(|_| Asked::of(&journal, rate())).collect();
    for (number, asked) in asked.iter().enumerate() {
        asked.granted();
        let least = Duration::from_millis(if number < 2 { 0 } else { 490 });
        let least = if number == 4 { least * 2 } else { least };
        assert!(began.elapsed() >= least, "{number}: {:?}", began.elapsed());
        journal.leave(asked.permit);
    }
    until(|| permits(&folder) == 0);
    journal.close();
}

#[test]
fn a_permit_that_is_given_back_before_it_is_granted_holds_nothing_up() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let first = Asked::of(&journal, limited("k", 2));
    first.granted();
    // It has to run alone, and holds up those behind it.
    let alone = Asked::of(&journal, limited("k", 1));
    let behind = Asked::of(&journal, limited("k", 2));
    behind.waits(&journal);
    journal.leave(alone.permit);
    assert_eq!(alone.said(), Ok(false));
    behind.granted();
    // Asked for and given back at once, in one transaction or two.
    for _ in 0..50 {
        let brief = Asked::of(&journal, limited("k", 2));
        journal.leave(brief.permit);
        brief.said().unwrap();
    }
    journal.leave(first.permit);
    journal.leave(behind.permit);
    until(|| permits(&folder) == 0);
    journal.close();
}

#[test]
fn permits_are_no_tasks() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 3);
    let first = Asked::of(&journal, limited("k", 1));
    first.granted();
    let second = Asked::of(&journal, limited("k", 1));
    second.waits(&journal);
    let held = journal.held(second.permit).unwrap().unwrap();
    assert_eq!((held.limits.key.as_str(), held.running), ("k", 1));
    assert_eq!(journal.held(first.permit).unwrap(), None);
    let stats = journal.stats().unwrap();
    assert_eq!((stats.running, stats.blocked, stats.ready), (0, 0, 0));
    let list = journal.list(&Filter::default(), 10, None).unwrap();
    assert!(list.unwrap().is_empty());
    let sql = "SELECT id FROM task WHERE state = 2";
    let id: String = shell(&folder).query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(journal.get(&id).unwrap(), Found::Unknown);
    // A pause is for tasks that the journal starts.
    journal.pause(None).unwrap();
    journal.leave(first.permit);
    second.granted();
    journal.leave(second.permit);
    journal.close();
}

#[test]
fn a_task_whose_code_goes_on_keeps_its_place() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 3);
    let claim = mine(journal.submit(durable(limited("k", 1))).unwrap());
    let next = durable(limited("k", 1));
    journal.submit(next.clone()).unwrap();
    let permit = Permit::new();
    journal.stay(claim, permit);
    end(&journal, claim);
    assert_eq!(row(&journal, &next.id).state, State::Blocked);
    journal.leave(permit);
    let claimed = notes.claimed();
    assert_eq!(claimed.id, next.id);
    end(&journal, claimed.claim);
    // Without a limit there is nothing to keep.
    let claim = mine(journal.submit(task()).unwrap());
    journal.stay(claim, Permit::new());
    end(&journal, claim);
    assert_eq!(permits(&folder), 0);
    journal.close();
}

#[test]
fn the_end_of_a_journal_is_an_answer() {
    let folder = Folder::new();
    let [(one, _), (two, _)] = [watching(&folder), watching(&folder)];
    let first = Asked::of(&one, limited("k", 1));
    first.granted();
    let second = Asked::of(&one, limited("k", 1));
    second.waits(&one);
    let third = Asked::of(&two, limited("k", 1));
    third.waits(&two);
    one.close();
    assert_eq!(second.said().unwrap_err().kind, ErrorKind::Closed);
    // The code of the first may go on, until its process ends: here, that of this test.
    third.waits(&two);
    assert_eq!(permits(&folder), 2);
    two.close();
    let late = Asked::of(&two, limited("k", 1));
    assert_eq!(late.said().unwrap_err().kind, ErrorKind::Closed);
}

#[test]
fn a_file_that_is_replaced_is_an_answer() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let first = Asked::of(&journal, limited("k", 1));
    first.granted();
    let second = Asked::of(&journal, limited("k", 1));
    second.waits(&journal);
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        _ = std::fs::remove_file(folder.path().join(name));
    }
    let error = second.said().unwrap_err();
    assert!(error.text.contains("removed or replaced"), "{error}");
    // That of the old file does not count in the new one.
    journal.leave(first.permit);
    let third = Asked::of(&journal, limited("k", 1));
    third.granted();
    journal.leave(third.permit);
    until(|| permits(&folder) == 0);
    journal.close();
}

// --- Kills --------------------------------------------------------------------------

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, path) = role();
    let settings = support::settings(&path.join("journal.db"));
    let (journal, _) = support::with(settings, 3);
    let held = match role.as_str() {
        "holds" => Asked::of(&journal, limited("k", 1)),
        other => panic!("no role {other}"),
    };
    held.granted();
    let waiting = Asked::of(&journal, limited("k", 1));
    waiting.waits(&journal);
    say("holds");
    wait_for_end();
}

#[test]
fn a_killed_process_gives_its_permits_back() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let mut actor = Actor::start("holds", folder.path());
    actor.hear("holds");
    assert_eq!(permits(&folder), 2);
    let asked = Asked::of(&journal, limited("k", 1));
    asked.waits(&journal);
    thread::sleep(Duration::from_millis(50));
    asked.waits(&journal);
    let began = Instant::now();
    actor.kill();
    asked.granted();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(permits(&folder), 1);
    journal.leave(asked.permit);
    journal.close();
}

#[test]
fn a_process_that_ends_without_a_word_gives_its_permits_back() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let mut actor = Actor::start("holds", folder.path());
    actor.hear("holds");
    let asked = Asked::of(&journal, limited("k", 1));
    asked.waits(&journal);
    actor.end();
    asked.granted();
    journal.leave(asked.permit);
    journal.close();
}
