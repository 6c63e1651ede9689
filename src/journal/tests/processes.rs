//! Tasks of processes that are killed, stopped, end in order, or fork.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::time::{Duration, Instant};

use flask_delay_journal::{Accepted, Change, Found, NewTask, Settings, State};
use process::{Actor, role, wait_for_end};
use support::{
    Folder, claiming, finished, mine, now, row, say, settings, task, until, watching, with,
};

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    let (journal, notes) = with(settings(&folder.join("journal.db")), 8);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    match role.as_str() {
        // Takes what is there and never ends it.
        "hold" => {
            notes.claimed();
            say("claimed");
            wait_for_end();
        }
        "leave" => {
            notes.claimed();
            say("claimed");
            wait_for_end();
            journal.close();
        }
        "publish" => {
            journal.publish("plain".to_owned(), "send".to_owned(), now(), Some(now()));
            assert!(matches!(journal.get("plain").unwrap(), Found::Row(_)));
            say("published");
            wait_for_end();
        }
        "die" => {
            notes.claimed();
            process::die();
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn the_task_of_a_killed_process_runs_again_within_a_second() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let task = task();
    web.submit(task.clone()).unwrap();
    let mut holder = Actor::start("hold", folder.path());
    holder.hear("claimed");
    let (worker, notes) = claiming(&folder, 1);
    holder.kill();
    let died = Instant::now();
    let claimed = notes.claimed();
    assert!(
        died.elapsed() < Duration::from_millis(1200),
        "{:?}",
        died.elapsed()
    );
    assert_eq!(claimed.id, task.id);
    assert_eq!((claimed.claim.attempt, claimed.claim.epoch), (2, 2));
    assert!(claimed.began.is_some());
    assert_eq!(row(&web, &task.id).deaths, 1);
    worker
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    let ended = of_web.ended();
    assert_eq!((ended.state, ended.deaths), (State::Finished, 0));
    // The other one only submits.
    assert_eq!(web.stats().unwrap().processes, 1);
    worker.close();
    web.close();
}

#[test]
fn a_stopped_process_is_not_dead() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let task = task();
    web.submit(task.clone()).unwrap();
    let mut holder = Actor::start("hold", folder.path());
    holder.hear("claimed");
    holder.signal(libc::SIGSTOP);
    let (worker, notes) = claiming(&folder, 1);
    // Time for three looks: nothing must happen, so there is nothing to wait for.
    std::thread::sleep(Duration::from_millis(3200));
    assert_eq!(notes.left(), (0, 0));
    assert_eq!(row(&web, &task.id).state, State::Running);
    holder.signal(libc::SIGCONT);
    holder.kill();
    assert_eq!(notes.claimed().id, task.id);
    worker.close();
    web.close();
}

#[test]
fn an_orderly_end_counts_as_no_death() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let task = task();
    web.submit(task.clone()).unwrap();
    let mut leaving = Actor::start("leave", folder.path());
    leaving.hear("claimed");
    let (worker, notes) = claiming(&folder, 1);
    leaving.end();
    let claimed = notes.claimed();
    assert_eq!((claimed.id, claimed.claim.attempt), (task.id.clone(), 2));
    assert_eq!(row(&web, &task.id).deaths, 0);
    worker.close();
    web.close();
}

#[test]
fn a_plain_task_fails_with_its_process() {
    let folder = Folder::new();
    let (worker, notes) = claiming(&folder, 1);
    let mut owner = Actor::start("publish", folder.path());
    owner.hear("published");
    assert!(matches!(worker.watch("plain").unwrap(), Found::Row(_)));
    owner.kill();
    let ended = notes.ended();
    assert_eq!((ended.state, ended.plain), (State::Failed, true));
    assert!(ended.error.unwrap().contains("flask_delay.WorkerDied"));
    worker.close();
}

#[test]
fn a_task_that_kills_its_processes_is_a_dead_letter() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let task = task();
    web.submit(task.clone()).unwrap();
    for deaths in 1..=3 {
        let mut actor = Actor::start("die", folder.path());
        while !actor.has_ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(row(&web, &task.id).deaths, deaths - 1);
    }
    let (worker, notes) = claiming(&folder, 1);
    let ended = of_web.ended();
    assert_eq!((ended.state, ended.deaths), (State::Dead, 3));
    assert!(ended.error.unwrap().contains("flask_delay.WorkerDied"));
    assert_eq!(notes.reported("dead letter").0, log::Level::Error);
    let letter = notes.dead();
    assert_eq!((letter.id, letter.deaths), (task.id, 3));
    assert_eq!(letter.function, "send");
    assert!(letter.error.contains("it was the third that did"));
    assert_eq!((notes.letters(), of_web.letters()), (0, 0));
    assert_eq!(worker.stats().unwrap().dead, 1);
    worker.close();
    web.close();
}

/// How many deaths are allowed is for the task's own app to say, and the dead letter for it to tell.
#[test]
fn another_app_that_takes_over_makes_no_dead_letter() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let task = task();
    web.submit(task.clone()).unwrap();
    let (other, of_other) = with(
        Settings {
            app: "blog|delay".to_owned(),
            deaths: 1,
            ..settings(&folder.database())
        },
        1,
    );
    other.know(vec!["send".to_owned()]);
    other.start().unwrap();
    for deaths in 1..=3 {
        let mut actor = Actor::start("die", folder.path());
        while !actor.has_ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        until(|| row(&web, &task.id).deaths == deaths);
        assert_eq!(row(&web, &task.id).state, State::Ready);
    }
    let (worker, notes) = claiming(&folder, 1);
    assert_eq!(of_web.ended().state, State::Dead);
    assert_eq!(notes.dead().id, task.id);
    assert_eq!(of_other.letters(), 0);
    assert_eq!(notes.left(), (0, 0));
    for journal in [worker, other, web] {
        journal.close();
    }
}

#[test]
fn a_death_that_is_known_to_be_of_one_task() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 2);
    let poison = task();
    let mut claim = mine(journal.submit(poison.clone()).unwrap());
    let error = "{\"type\": \"flask_delay.ProcessDied\"}";
    let died = Change::Died {
        error: error.to_owned(),
    };
    for deaths in 1..3 {
        journal.change(claim, died.clone()).unwrap();
        assert_eq!(row(&journal, &poison.id).deaths, deaths);
        let claimed = notes.claimed();
        assert_eq!(
            (&claimed.id, claimed.claim.attempt),
            (&poison.id, deaths + 1)
        );
        claim = claimed.claim;
    }
    journal.change(claim, died).unwrap();
    let ended = notes.ended();
    assert_eq!(
        (ended.state, ended.error.as_deref()),
        (State::Dead, Some(error))
    );
    let letter = notes.dead();
    assert_eq!((letter.id, letter.deaths), (poison.id, 3));
    // One that was asked to stop is cancelled, and no dead letter.
    let stopped = task();
    let claim = mine(journal.submit(stopped.clone()).unwrap());
    journal.stop(&stopped.id).unwrap();
    let died = Change::Died {
        error: error.to_owned(),
    };
    journal.change(claim, died).unwrap();
    let ended = notes.ended();
    assert_eq!((ended.state, ended.error), (State::Cancelled, None));
    assert_eq!(notes.letters(), 0);
    journal.close();
}

#[test]
fn a_suspect_runs_alone() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let suspect = NewTask { rank: 1, ..task() };
    web.submit(suspect.clone()).unwrap();
    let mut holder = Actor::start("hold", folder.path());
    holder.hear("claimed");
    let (worker, notes) = claiming(&folder, 4);
    let busy = mine(worker.submit(task()).unwrap());
    holder.kill();
    // Until it is idle, it starts and claims nothing.
    while row(&web, &suspect.id).state != State::Ready {
        std::thread::sleep(Duration::from_millis(5));
    }
    let others: Vec<_> = (0..3).map(|_| task()).collect();
    for other in &others {
        assert_eq!(worker.submit(other.clone()).unwrap(), Accepted::Waiting);
    }
    assert_eq!(notes.left(), (0, 0));
    worker.change(busy, Change::End(finished())).unwrap();
    let alone = notes.claimed();
    assert_eq!(alone.id, suspect.id);
    assert_eq!(notes.left(), (0, 0));
    worker.change(alone.claim, Change::End(finished())).unwrap();
    for other in others {
        assert_eq!(notes.claimed().id, other.id);
    }
    worker.close();
    web.close();
}

#[test]
fn a_child_that_is_forked_is_a_process_of_its_own() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let first = mine(journal.submit(task()).unwrap());
    let of_child = task();
    let child = process::fork(|| {
        // Without a start it submits and reads.
        assert_eq!(journal.submit(of_child.clone()).unwrap(), Accepted::Waiting);
        assert_eq!(row(&journal, &of_child.id).state, State::Ready);
        assert!(!row(&journal, &of_child.id).is_mine);
        assert_eq!(journal.stats().unwrap().processes, 1);
        journal.close();
    });
    assert!(process::wait_for(child));
    journal.change(first, Change::End(finished())).unwrap();
    assert_eq!(notes.claimed().id, of_child.id);
    journal.close();
}
