//! What the look of each second finds: tasks of functions that no process knows, and those that a `resume` has
//! left. Within the crate, where that takes less time.

#[path = "../support/mod.rs"]
mod support;

use rusqlite::Connection;

use crate::{Change, NewTask, State};
use support::{Folder, claiming, finished, mine, row, task, until, watching, with};

#[test]
fn tasks_of_unknown_functions_are_parked_and_revived() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let unknown = |_| NewTask {
        function: "later".to_owned(),
        ..task()
    };
    let tasks: Vec<_> = (0..3).map(unknown).collect();
    for task in &tasks {
        web.submit(task.clone()).unwrap();
    }
    let (worker, notes) = claiming(&folder, 1);
    let (level, text) = notes.reported("parked");
    assert_eq!(level, log::Level::Warn);
    assert!(text.contains("3 tasks of later"), "{text}");
    let parked = row(&web, &tasks[0].id);
    assert_eq!(parked.state, State::Parked);
    assert!(parked.reason.unwrap().contains("no process knows"));
    assert_eq!(notes.left(), (0, 0));
    // What is known goes on beside it.
    let claim = mine(worker.submit(task()).unwrap());
    worker.change(claim, Change::End(finished())).unwrap();
    // A deploy brings the function.
    let (next, of_next) = with(support::settings(&folder.database()), 1);
    next.know(vec!["later".to_owned()]);
    next.start().unwrap();
    for task in &tasks {
        let claimed = of_next.claimed();
        assert_eq!((&claimed.id, claimed.claim.attempt), (&task.id, 1));
        next.change(claimed.claim, Change::End(finished())).unwrap();
    }
    for journal in [next, worker, web] {
        journal.close();
    }
}

#[test]
fn a_function_that_another_process_knows_is_left_to_it() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let late = NewTask {
        function: "later".to_owned(),
        ..task()
    };
    // The process that knows it is busy.
    let (busy, of_busy) = with(support::settings(&folder.database()), 1);
    busy.know(vec!["send".to_owned(), "later".to_owned()]);
    busy.start().unwrap();
    let claim = mine(busy.submit(task()).unwrap());
    web.submit(late.clone()).unwrap();
    let (worker, notes) = claiming(&folder, 1);
    // Longer than until it would be parked.
    std::thread::sleep(super::SELDOM * 3);
    assert_eq!(row(&web, &late.id).state, State::Ready);
    assert_eq!(notes.left(), (0, 0));
    busy.change(claim, Change::End(finished())).unwrap();
    assert_eq!(of_busy.claimed().id, late.id);
    until(|| web.stats().unwrap().ready == 0);
    for journal in [busy, worker, web] {
        journal.close();
    }
}

#[test]
fn what_was_left_set_aside_is_released() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    web.pause(Some("send")).unwrap();
    let tasks: Vec<_> = (0..3).map(|_| task()).collect();
    for task in &tasks {
        web.submit(task.clone()).unwrap();
    }
    let (worker, notes) = claiming(&folder, 1);
    // As a `resume` does before the first of them is released.
    let other = Connection::open(folder.database()).unwrap();
    other.execute("DELETE FROM paused", []).unwrap();
    drop(other);
    assert_eq!(notes.claimed().id, tasks[0].id);
    until(|| row(&web, &tasks[1].id).state == State::Ready);
    for journal in [worker, web] {
        journal.close();
    }
}
