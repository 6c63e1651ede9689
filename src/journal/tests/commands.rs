//! What a process asks another one to do.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use flask_delay_journal::{Change, Journal, Order, Reply, State};
use rusqlite::Connection;
use support::{
    Folder, LONG, Notes, claiming, finished, id, mine, now, settings, task, until, with,
};

fn order(verb: &str, target: &str, is_task: bool) -> Order {
    Order {
        verb: verb.to_owned(),
        target: target.to_owned(),
        actor: Some("ada".to_owned()),
        is_task,
    }
}

/// Two processes, of which the first runs a task; what the first is told, and the task's id.
fn pair(folder: &Folder) -> (Journal, Journal, Arc<Notes>, String) {
    let (one, of_one) = claiming(folder, 1);
    let (two, _) = claiming(folder, 0);
    let task = task();
    let id = task.id.clone();
    mine(one.submit(task).unwrap());
    (one, two, of_one, id)
}

/// Asks on a thread of its own, and has `deal` act for the other process.
fn asked(journal: &Journal, order: Order, patience: Duration, deal: impl FnOnce()) -> Reply {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| journal.command(order, patience).unwrap());
        deal();
        asking.join().unwrap()
    })
}

fn count(folder: &Folder) -> i64 {
    let connection = Connection::open(folder.database()).unwrap();
    let sql = "SELECT count(*) FROM command";
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn the_process_of_a_task_gets_it_alone_and_answers() {
    let folder = Folder::new();
    let (one, two, of_one, id) = pair(&folder);
    let (three, of_three) = claiming(&folder, 0);
    let order = order("stack", &id, true);
    let reply = asked(&two, order.clone(), LONG, || {
        let command = of_one.commanded();
        assert_eq!((&command.order, command.is_open), (&order, false));
        // Not by another one, and once.
        assert!(!three.take_command(command.number).unwrap());
        assert!(one.take_command(command.number).unwrap());
        assert!(!one.take_command(command.number).unwrap());
        one.settle(command.number, "here".to_owned());
    });
    assert_eq!(reply, Reply::Done("here".to_owned()));
    assert!(of_three.has_no_command());
    for journal in [one, two, three] {
        journal.close();
    }
}

#[test]
fn an_open_one_is_for_the_first_that_has_the_target() {
    let folder = Folder::new();
    let (one, of_one) = claiming(&folder, 0);
    let (two, of_two) = claiming(&folder, 0);
    let (three, of_three) = claiming(&folder, 0);
    let reply = asked(&two, order("run", "job", false), LONG, || {
        let command = of_one.commanded();
        assert!(command.is_open);
        assert_eq!(of_three.commanded(), command);
        let taken = [&one, &three].map(|it| it.take_command(command.number).unwrap());
        assert_eq!(taken, [true, false]);
        one.settle(command.number, "done".to_owned());
    });
    assert_eq!(reply, Reply::Done("done".to_owned()));
    assert!(of_two.has_no_command());
    // Nobody has that one, and a process that starts later does not do it unasked.
    let brief = Duration::from_millis(50);
    let reply = two.command(order("run", "other", false), brief).unwrap();
    assert_eq!((reply, count(&folder)), (Reply::Nowhere, 1));
    for journal in [one, two, three] {
        journal.close();
    }
}

#[test]
fn a_late_answer_finds_no_one_and_does_no_harm() {
    let folder = Folder::new();
    let (one, two, of_one, id) = pair(&folder);
    let brief = Duration::from_millis(50);
    let order = order("cancel", &id, true);
    assert_eq!(two.command(order.clone(), brief).unwrap(), Reply::Asked);
    let first = of_one.commanded();
    assert!(one.take_command(first.number).unwrap());
    one.settle(first.number, "late".to_owned());
    // The next one has its own answer.
    let reply = asked(&two, order, LONG, || {
        let second = of_one.commanded();
        assert!(one.take_command(second.number).unwrap());
        one.settle(second.number, "in time".to_owned());
    });
    assert_eq!(reply, Reply::Done("in time".to_owned()));
    one.close();
    two.close();
}

#[test]
fn a_task_that_no_other_process_runs_is_said() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    // No process that could have what the file does not know.
    let reply = one.command(order("stack", "unknown", true), LONG).unwrap();
    assert_eq!(reply, Reply::Nowhere);
    let claim = mine(one.submit(task).unwrap());
    let ask = || one.command(order("stack", &id, true), LONG).unwrap();
    assert_eq!(ask(), Reply::Here);
    one.change(claim, Change::End(finished())).unwrap();
    assert_eq!(ask(), Reply::Not(State::Finished));
    one.close();
}

#[test]
fn a_process_that_has_left_has_gone_and_takes_its_commands_along() {
    let folder = Folder::new();
    let (one, of_one) = claiming(&folder, 0);
    let (two, _) = claiming(&folder, 0);
    let id = id();
    one.publish(id.clone(), "plain".to_owned(), now(), Some(now()));
    until(|| support::found(&two, &id));
    let reply = asked(&two, order("stop", &id, true), LONG, || {
        let command = of_one.commanded();
        assert!(one.take_command(command.number).unwrap());
        one.close();
    });
    assert_eq!((reply, count(&folder)), (Reply::Gone, 0));
    two.close();
}

#[test]
fn apps_on_one_file_do_not_hear_each_others() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 0);
    let (two, of_two) = with(
        flask_delay_journal::Settings {
            app: "other|delay".to_owned(),
            ..settings(&folder.database())
        },
        0,
    );
    two.start().unwrap();
    let brief = Duration::from_millis(100);
    let reply = one.command(order("run", "job", false), brief).unwrap();
    assert_eq!(reply, Reply::Nowhere);
    assert!(of_two.has_no_command());
    one.close();
    two.close();
}
