//! What the look of each second finds: tasks of functions that no process knows, and those that a `resume` has
//! left. Within the crate, where that takes less time.

use rusqlite::Connection;

use crate::support::{
    Folder, claiming, finished, mine, row, settings, shell, task, until, watching, with,
};
use crate::{Change, Limits, NewTask, State};

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
    let (next, of_next) = with(settings(&folder.database()), 1);
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

/// Newer code has marked them so: this code must not touch them.
#[test]
fn tasks_of_an_unknown_pool_are_not_parked() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let unknown = |_| NewTask {
        function: "later".to_owned(),
        limits: Some(Box::new(Limits {
            key: "k".to_owned(),
            limit: Some(1),
            rate: None,
        })),
        ..task()
    };
    let tasks: Vec<_> = (0..4).map(unknown).collect();
    for task in &tasks {
        web.submit(task.clone()).unwrap();
    }
    let states = || -> Vec<State> { tasks.iter().map(|it| row(&web, &it.id).state).collect() };
    assert_eq!(states()[..2], [State::Ready, State::Blocked]);
    let later = NewTask {
        function: "later".to_owned(),
        ..task()
    };
    web.submit(later.clone()).unwrap();
    shell(&folder)
        .execute("UPDATE task SET pool = 3 WHERE sequence IN (1, 2)", [])
        .unwrap();
    let (worker, notes) = claiming(&folder, 1);
    let (_, text) = notes.reported("parked");
    assert!(text.contains("3 tasks of later"), "{text}");
    let parked = [State::Parked; 2];
    assert_eq!(states(), [[State::Ready, State::Blocked], parked].concat());
    assert_eq!(row(&web, &later.id).state, State::Parked);
    worker.close();
    web.close();
}

#[test]
fn tasks_of_unknown_functions_hold_up_no_others_of_their_key_for_long() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let of = |function: &str| NewTask {
        function: function.to_owned(),
        limits: Some(Box::new(Limits {
            key: "k".to_owned(),
            limit: Some(1),
            rate: None,
        })),
        ..task()
    };
    let unknown: Vec<_> = (0..3).map(|_| of("later")).collect();
    let known = of("send");
    for task in unknown.iter().chain([&known]) {
        web.submit(task.clone()).unwrap();
    }
    assert_eq!(row(&web, &unknown[0].id).state, State::Ready);
    assert_eq!(row(&web, &known.id).state, State::Blocked);
    let (worker, notes) = claiming(&folder, 1);
    // All of them are parked at once.
    let (_, text) = notes.reported("parked");
    assert!(text.contains("3 tasks of later"), "{text}");
    let claimed = notes.claimed();
    assert_eq!(claimed.id, known.id);
    // A deploy brings the function: the limit holds, and the order.
    let (next, of_next) = with(settings(&folder.database()), 3);
    next.know(vec!["later".to_owned()]);
    next.start().unwrap();
    until(|| row(&web, &unknown[2].id).state == State::Blocked);
    worker
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    for task in &unknown {
        let claimed = of_next.claimed();
        assert_eq!((&claimed.id, of_next.left().0), (&task.id, 0));
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
    let (busy, of_busy) = with(settings(&folder.database()), 1);
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
