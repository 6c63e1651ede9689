//! What people do with the tasks of a journal.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::fs::File;
use std::time::Duration;

use flask_delay_journal::{
    Accepted, Change, Filter, Found, Journal, NewTask, Outcome, Retried, State,
};
use support::{
    Folder, again, claiming, finished, id, mine, now, row, settings, shell, task, until, watching,
    with,
};

fn failed() -> Outcome {
    Outcome::Failed {
        error: "{}".to_owned(),
    }
}

fn of(function: &str) -> NewTask {
    NewTask {
        function: function.to_owned(),
        ..task()
    }
}

fn ids(journal: &Journal, filter: &Filter, most: usize, before: Option<&str>) -> Vec<String> {
    let rows = journal.list(filter, most, before).unwrap().unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

fn all() -> Filter {
    Filter::default()
}

fn in_state(state: State) -> Filter {
    Filter {
        states: vec![state],
        ..all()
    }
}

mod a_retry {
    use super::*;

    #[test]
    fn runs_the_same_task_again() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 1);
        let (web, of_web) = watching(&folder);
        let task = NewTask {
            arguments: format!("{{\"args\": [\"{}\"], \"kwargs\": {{}}}}", "x".repeat(5000)),
            expires: Some(now() + 3_600_000_000),
            ..task()
        };
        let claim = mine(journal.submit(task.clone()).unwrap());
        assert_eq!(web.retry(&task.id).unwrap(), Retried::Not(State::Running));
        journal.change(claim, Change::End(failed())).unwrap();
        assert_eq!(web.retry(&task.id).unwrap(), Retried::Yes);
        let claimed = notes.claimed();
        assert_eq!(
            (&claimed.id, &claimed.arguments),
            (&task.id, &task.arguments)
        );
        assert_eq!(claimed.claim.attempt, 2);
        let found = row(&web, &task.id);
        assert_eq!(
            (found.state, found.ended, found.error),
            (State::Running, None, None)
        );
        assert_eq!(found.expires, None);
        assert!(matches!(web.watch(&task.id).unwrap(), Found::Row(_)));
        journal
            .change(claimed.claim, Change::End(finished()))
            .unwrap();
        let ended = of_web.ended();
        assert_eq!((ended.state, ended.attempt), (State::Finished, 2));
        assert_eq!(web.retry(&task.id).unwrap(), Retried::Not(State::Finished));
        assert_eq!(web.retry("none").unwrap(), Retried::Unknown);
        for journal in [web, journal] {
            journal.close();
        }
    }

    #[test]
    fn is_refused_beside_a_twin_and_for_plain_tasks() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 1);
        let unique = || NewTask {
            unique: Some("key".to_owned()),
            ..task()
        };
        let (first, second) = (unique(), unique());
        let claim = mine(journal.submit(first.clone()).unwrap());
        journal.change(claim, Change::End(failed())).unwrap();
        let claim = mine(journal.submit(second.clone()).unwrap());
        let twin = Retried::Twin(second.id.clone());
        assert_eq!(journal.retry(&first.id).unwrap(), twin);
        assert_eq!(row(&journal, &first.id).state, State::Failed);
        journal.change(claim, Change::End(finished())).unwrap();
        assert_eq!(journal.retry(&first.id).unwrap(), Retried::Yes);
        let plain = id();
        journal.publish(plain.clone(), "send".to_owned(), now(), Some(now()));
        journal.publish_ended(plain.clone(), failed());
        until(|| row(&journal, &plain).state == State::Failed);
        assert_eq!(journal.retry(&plain).unwrap(), Retried::Plain);
        journal.close();
    }

    #[test]
    fn knows_a_plain_task_that_was_published_just_before() {
        let folder = Folder::new();
        let (journal, _) = watching(&folder);
        journal.submit(task()).unwrap();
        let turn = File::open(folder.path().join("journal/turnstile")).unwrap();
        turn.lock().unwrap();
        // Both wait for the turn, and are done in one transaction.
        let plain = id();
        journal.publish(plain.clone(), "send".to_owned(), now(), None);
        let asking = journal.clone();
        let asked = std::thread::spawn(move || asking.retry(&plain));
        std::thread::sleep(Duration::from_millis(100));
        turn.unlock().unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), Retried::Plain);
        journal.close();
    }
}

mod a_pause {
    use super::*;

    #[test]
    fn holds_in_every_process_until_it_is_resumed() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let (journal, notes) = claiming(&folder, 2);
        web.pause(Some("send")).unwrap();
        web.pause(Some("send")).unwrap();
        let (here, there) = (task(), task());
        assert_eq!(journal.submit(here.clone()).unwrap(), Accepted::Waiting);
        assert_eq!(web.submit(there.clone()).unwrap(), Accepted::Waiting);
        // What was ready before, too.
        let found = row(&web, &here.id);
        assert_eq!((found.state, found.is_paused), (State::Blocked, true));
        journal.close();
        // It survives a restart.
        let (journal, of_next) = claiming(&folder, 2);
        assert_eq!(journal.paused().unwrap(), [Some("send".to_owned())]);
        assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
        let stats = web.stats().unwrap();
        assert_eq!((stats.ready, stats.blocked, stats.oldest), (0, 3, None));
        assert_eq!((notes.left().0, of_next.left().0), (0, 0));
        assert_eq!(ids(&web, &in_state(State::Blocked), 9, None).len(), 3);
        assert_eq!(ids(&web, &in_state(State::Ready), 9, None), [""; 0]);
        web.resume(Some("send")).unwrap();
        let (first, second) = (of_next.claimed(), of_next.claimed());
        assert_eq!([first.id, second.id], [here.id, there.id]);
        assert_eq!(first.claim.attempt, 1);
        assert!(web.paused().unwrap().is_empty());
        for journal in [web, journal] {
            journal.close();
        }
    }

    #[test]
    fn of_one_function_leaves_the_others_alone() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        web.pause(Some("slow")).unwrap();
        // More than are set aside in one transaction, and in front of the other.
        let ready = |_| web.submit(of("slow")).unwrap();
        (0..5).for_each(|it| _ = ready(it));
        web.resume(Some("slow")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..80).for_each(|it| _ = ready(it)));
            }
        });
        assert_eq!(web.stats().unwrap().ready, 645);
        web.pause(Some("slow")).unwrap();
        // Although no claim has met them yet.
        let stats = web.stats().unwrap();
        assert_eq!((stats.ready, stats.blocked, stats.oldest), (0, 645, None));
        let other = task();
        web.submit(other.clone()).unwrap();
        let (journal, notes) = with(settings(&folder.database()), 2);
        journal.know(vec!["send".to_owned(), "slow".to_owned()]);
        journal.start().unwrap();
        assert_eq!(notes.claimed().id, other.id);
        // The fast path is free for others.
        mine(journal.submit(task()).unwrap());
        let stats = web.stats().unwrap();
        assert_eq!((stats.ready, stats.blocked, stats.running), (0, 645, 2));
        assert_eq!(notes.left().0, 0);
        web.resume(Some("slow")).unwrap();
        assert_eq!(web.stats().unwrap().ready, 645);
        for journal in [web, journal] {
            journal.close();
        }
    }

    #[test]
    fn of_everything_ends_with_every_other() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 1);
        journal.pause(None).unwrap();
        journal.pause(Some("slow")).unwrap();
        let mut paused = journal.paused().unwrap();
        paused.sort();
        assert_eq!(paused, [None, Some("slow".to_owned())]);
        let first = task();
        assert_eq!(journal.submit(first.clone()).unwrap(), Accepted::Waiting);
        let late = NewTask {
            due: Some(now() + 50_000),
            ..task()
        };
        journal.submit(late.clone()).unwrap();
        journal.resume(Some("slow")).unwrap();
        until(|| row(&journal, &late.id).state == State::Blocked);
        assert_eq!(row(&journal, &first.id).state, State::Blocked);
        assert_eq!(notes.left().0, 0);
        journal.resume(None).unwrap();
        let claimed = notes.claimed();
        assert_eq!(claimed.id, first.id);
        journal
            .change(claimed.claim, Change::End(finished()))
            .unwrap();
        assert_eq!(notes.claimed().id, late.id);
        journal.close();
    }

    /// It waits for a process of its own, not in the line of the others.
    #[test]
    fn holds_back_a_task_whose_process_has_died() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let suspect = of("slow");
        web.submit(suspect.clone()).unwrap();
        shell(&folder)
            .execute("UPDATE task SET deaths = 1", [])
            .unwrap();
        web.pause(Some("slow")).unwrap();
        let (journal, notes) = with(settings(&folder.database()), 2);
        journal.know(vec!["send".to_owned(), "slow".to_owned()]);
        journal.start().unwrap();
        let other = task();
        web.submit(other.clone()).unwrap();
        let claimed = notes.claimed();
        assert_eq!(claimed.id, other.id);
        let change = Change::End(finished());
        journal.change(claimed.claim, change).unwrap();
        assert_eq!(row(&web, &suspect.id).state, State::Blocked);
        web.resume(Some("slow")).unwrap();
        assert_eq!(notes.claimed().id, suspect.id);
        for journal in [web, journal] {
            journal.close();
        }
    }

    #[test]
    fn holds_back_the_next_attempt_and_what_can_be_cancelled() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 1);
        let task = task();
        let claim = mine(journal.submit(task.clone()).unwrap());
        journal.pause(Some("send")).unwrap();
        journal.change(claim, again()).unwrap();
        until(|| row(&journal, &task.id).state == State::Blocked);
        assert_eq!(notes.left().0, 0);
        assert_eq!(
            journal.cancel(&task.id).unwrap(),
            flask_delay_journal::Cancelled::Yes
        );
        journal.close();
    }
}

mod a_prune {
    use super::*;

    #[test]
    fn removes_the_ended_tasks_that_are_meant() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 4);
        let mut ends = Vec::new();
        for outcome in [finished(), failed(), finished(), Outcome::Cancelled] {
            let task = task();
            let claim = mine(journal.submit(task.clone()).unwrap());
            journal.change(claim, Change::End(outcome)).unwrap();
            ends.push(task.id);
        }
        let runs = task();
        let claim = mine(journal.submit(runs.clone()).unwrap());
        let failures = Filter {
            states: vec![State::Failed],
            ended_before: Some(now() + 1),
            ..all()
        };
        assert_eq!(journal.prune(&failures).unwrap(), 1);
        assert_eq!(journal.get(&ends[1]).unwrap(), Found::Gone);
        let old = Filter {
            ended_before: Some(0),
            ..all()
        };
        assert_eq!(journal.prune(&old).unwrap(), 0);
        assert_eq!(journal.prune(&all()).unwrap(), 3);
        assert_eq!(ids(&journal, &all(), 9, None), [runs.id]);
        assert_eq!(journal.retry(&ends[1]).unwrap(), Retried::Gone);
        journal.change(claim, Change::End(finished())).unwrap();
        journal.close();
    }

    #[test]
    fn goes_through_any_number() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 16);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..210 {
                        let claim = mine(journal.submit(task()).unwrap());
                        journal.change(claim, Change::End(finished())).unwrap();
                    }
                });
            }
        });
        assert_eq!(journal.prune(&all()).unwrap(), 2520);
        assert_eq!(ids(&journal, &all(), 9, None), [""; 0]);
        journal.close();
    }
}
