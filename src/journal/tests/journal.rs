//! Tasks from submit to end, in one process with one or two journals on the same file.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use flask_delay_journal::{
    Accepted, Cancelled, Change, Changed, Found, Key, NewTask, Outcome, State,
};
use support::{
    Folder, again, claiming, finished, id, mine, now, row, say, settings, shell, task, until,
    watching, with,
};

#[test]
fn a_task_starts_at_once_and_ends() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 2);
    let task = task();
    let id = task.id.clone();
    let claim = mine(journal.submit(task).unwrap());
    let found = row(&journal, &id);
    assert_eq!(
        (found.state, found.is_mine, found.attempt),
        (State::Running, true, 1)
    );
    assert_eq!(found.function, "send");
    assert_eq!(
        journal.change(claim, Change::End(finished())).unwrap(),
        Changed::Done
    );
    let found = row(&journal, &id);
    assert_eq!((found.state, found.is_mine), (State::Finished, false));
    assert_eq!(found.result.as_deref(), Some("42"));
    assert!(found.ended.unwrap() >= found.began.unwrap());
    journal.close();
}

#[test]
fn what_there_is_no_worker_for_waits_and_is_claimed() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let first = mine(journal.submit(task()).unwrap());
    let second = task();
    let id = second.id.clone();
    assert_eq!(journal.submit(second.clone()).unwrap(), Accepted::Waiting);
    assert_eq!(row(&journal, &id).state, State::Ready);
    journal.change(first, Change::End(finished())).unwrap();
    let claimed = notes.claimed();
    assert_eq!((&claimed.id, &claimed.arguments), (&id, &second.arguments));
    assert_eq!((claimed.claim.attempt, claimed.began), (1, None));
    journal
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    assert_eq!(row(&journal, &id).state, State::Finished);
    // What runs and ends here is not told.
    assert_eq!(notes.left(), (0, 0));
    journal.close();
}

#[test]
fn tasks_are_claimed_by_rank() {
    let folder = Folder::new();
    let (other, _) = watching(&folder);
    for rank in [3, 1, 2] {
        other
            .submit(NewTask {
                rank,
                id: rank.to_string(),
                ..task()
            })
            .unwrap();
    }
    let (journal, notes) = claiming(&folder, 1);
    for rank in ["1", "2", "3"] {
        let claimed = notes.claimed();
        assert_eq!(claimed.id, rank);
        journal
            .change(claimed.claim, Change::End(finished()))
            .unwrap();
    }
    journal.close();
    other.close();
}

#[test]
fn another_process_runs_what_waits_and_the_submitter_hears_of_it() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let (worker, of_worker) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    assert_eq!(web.submit(task).unwrap(), Accepted::Waiting);
    let claimed = of_worker.claimed();
    let outcome = Outcome::Failed {
        error: "{}".to_owned(),
    };
    worker.change(claimed.claim, Change::End(outcome)).unwrap();
    let ended = of_web.ended();
    assert_eq!((ended.id, ended.state), (id, State::Failed));
    assert_eq!(ended.error.as_deref(), Some("{}"));
    worker.close();
    web.close();
    assert_eq!(of_web.left(), (0, 0));
}

#[test]
fn a_large_argument_comes_back() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let arguments = "x".repeat(300_000);
    web.submit(NewTask {
        arguments: arguments.clone(),
        ..task()
    })
    .unwrap();
    let (worker, notes) = claiming(&folder, 1);
    let claimed = notes.claimed();
    assert!(claimed.arguments == arguments);
    worker.change(claimed.claim, Change::PutBack).unwrap();
    assert!(notes.claimed().arguments == arguments);
    worker.close();
    web.close();
}

#[test]
fn another_attempt_is_counted_and_a_put_back_one_is_not() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    let claim = mine(journal.submit(task).unwrap());
    journal.change(claim, again()).unwrap();
    let second = notes.claimed();
    assert_eq!((second.claim.attempt, second.claim.epoch), (2, 2));
    assert!(second.began.is_some());
    journal.change(second.claim, Change::PutBack).unwrap();
    let third = notes.claimed();
    assert_eq!((third.claim.attempt, third.claim.epoch), (2, 3));
    // An outcome of an earlier claim is dropped.
    assert_eq!(
        journal.change(claim, Change::End(finished())).unwrap(),
        Changed::Fenced
    );
    notes.reported("is dropped");
    assert_eq!(row(&journal, &id).state, State::Running);
    let due = now() + 300_000;
    journal
        .change(
            third.claim,
            Change::Again {
                due: Some(due),
                why: None,
            },
        )
        .unwrap();
    assert_eq!(row(&journal, &id).state, State::Scheduled);
    let fourth = notes.claimed();
    assert!(now() >= due);
    assert_eq!(fourth.claim.attempt, 3);
    journal.close();
}

#[test]
fn a_retry_that_ends_elsewhere_is_told_where_it_was_submitted() {
    let folder = Folder::new();
    let (web, of_web) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    let claim = mine(web.submit(task).unwrap());
    web.stop_claiming();
    web.change(claim, again()).unwrap();
    let (worker, of_worker) = claiming(&folder, 1);
    let claimed = of_worker.claimed();
    assert_eq!(claimed.id, id);
    worker
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    assert_eq!(of_web.ended().id, id);
    worker.close();
    web.close();
}

#[test]
fn a_scheduled_task_runs_at_its_time_in_whichever_process() {
    let folder = Folder::new();
    let (worker, notes) = claiming(&folder, 1);
    let (web, _) = watching(&folder);
    let due = now() + 400_000;
    let task = NewTask {
        due: Some(due),
        ..task()
    };
    let id = task.id.clone();
    assert_eq!(web.submit(task).unwrap(), Accepted::Waiting);
    assert_eq!(row(&web, &id).due, Some(due));
    assert_eq!(notes.claimed().id, id);
    let late = now() - due;
    assert!((0..500_000).contains(&late), "{late} us late");
    worker.close();
    web.close();
}

#[test]
fn an_expired_task_fails_when_it_would_be_claimed() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let task = NewTask {
        expires: Some(now() - 1),
        ..task()
    };
    let id = task.id.clone();
    web.submit(task).unwrap();
    let (worker, notes) = claiming(&folder, 1);
    let ended = of_web.ended();
    assert_eq!((&ended.id, ended.state), (&id, State::Failed));
    assert!(ended.error.unwrap().contains("flask_delay.TaskExpired"));
    assert_eq!(notes.left(), (0, 0));
    worker.close();
    web.close();
}

#[test]
fn keys_exclude_a_second_task() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 4);
    let unique = NewTask {
        unique: Some("a".to_owned()),
        ..task()
    };
    let claim = mine(journal.submit(unique.clone()).unwrap());
    let twin = journal
        .submit(NewTask {
            id: id(),
            ..unique.clone()
        })
        .unwrap();
    let expected = Accepted::Twin {
        id: unique.id.clone(),
        function: "send".to_owned(),
        by: Key::Unique,
    };
    assert_eq!(twin, expected);
    journal.change(claim, Change::End(finished())).unwrap();
    mine(
        journal
            .submit(NewTask {
                id: id(),
                ..unique.clone()
            })
            .unwrap(),
    );

    let once = NewTask {
        once: Some("a".to_owned()),
        ..task()
    };
    let claim = mine(journal.submit(once.clone()).unwrap());
    journal.change(claim, Change::End(finished())).unwrap();
    let twin = journal
        .submit(NewTask {
            id: id(),
            ..once.clone()
        })
        .unwrap();
    let expected = Accepted::Twin {
        id: once.id.clone(),
        function: "send".to_owned(),
        by: Key::Once,
    };
    assert_eq!(twin, expected);
    assert_eq!(
        journal.submit(NewTask { once: None, ..once }).unwrap(),
        Accepted::Taken
    );

    // Another app on the same file has keys of its own.
    let (other, _) = with(
        flask_delay_journal::Settings {
            app: "other|delay".to_owned(),
            ..settings(&folder.database())
        },
        0,
    );
    let theirs = NewTask { id: id(), ..unique };
    assert_eq!(other.submit(theirs).unwrap(), Accepted::Waiting);
    other.close();
    journal.close();
}

#[test]
fn no_more_wait_than_may() {
    let folder = Folder::new();
    let mut settings = settings(&folder.database());
    settings.waiting = 2;
    let (journal, _) = with(settings, 0);
    assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
    assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
    assert_eq!(journal.submit(task()).unwrap(), Accepted::Full);
    journal.close();
}

#[test]
fn a_refusal_does_not_count_all_that_wait() {
    const MANY: u64 = 50_000;
    let folder = Folder::new();
    let mut settings = settings(&folder.database());
    settings.waiting = MANY;
    let (journal, _) = with(settings, 0);
    journal.submit(task()).unwrap();
    let shell = shell(&folder);
    let sql = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) \
               INSERT INTO task (id, state, application, function, pool, rank, submitted_at) \
               SELECT 'task ' || n, 0, application, function, pool, rank + n, submitted_at \
               FROM n, (SELECT * FROM task LIMIT 1)";
    shell.execute(sql, [MANY.cast_signed()]).unwrap();
    until(|| journal.submit(task()).unwrap() == Accepted::Full);

    let median = |ask: &dyn Fn()| {
        let mut all: Vec<_> = (0..101)
            .map(|_| {
                let began = Instant::now();
                ask();
                began.elapsed()
            })
            .collect();
        all.sort();
        all[50]
    };
    let refusal = median(&|| assert_eq!(journal.submit(task()).unwrap(), Accepted::Full));
    let sql = "SELECT count(*) FROM task WHERE state = 0";
    let count = median(&|| shell.query_row(sql, [], |_| Ok(())).unwrap());
    say(&format!("refused in {refusal:?}, counted in {count:?}"));
    assert!(refusal < count / 4, "{refusal:?}, {count:?}");
    journal.close();
}

#[test]
fn cancel_and_stop() {
    let folder = Folder::new();
    let (web, of_web) = watching(&folder);
    let waits = task();
    let id = waits.id.clone();
    web.submit(waits).unwrap();
    assert_eq!(web.cancel(&id).unwrap(), Cancelled::Yes);
    assert_eq!(of_web.ended().state, State::Cancelled);
    assert_eq!(web.cancel(&id).unwrap(), Cancelled::Ended);
    assert_eq!(web.stop("nothing").unwrap(), Cancelled::Unknown);

    let (worker, notes) = claiming(&folder, 1);
    let runs = task();
    let id = runs.id.clone();
    let claim = mine(worker.submit(runs).unwrap());
    assert_eq!(web.cancel(&id).unwrap(), Cancelled::Running);
    assert_eq!(web.stop(&id).unwrap(), Cancelled::Running);
    assert_eq!(notes.stopped(), id);
    assert!(row(&web, &id).stop_requested);
    worker
        .change(claim, Change::End(Outcome::Cancelled))
        .unwrap();
    assert_eq!(web.stop(&id).unwrap(), Cancelled::Ended);

    // One that was asked to stop does not begin again.
    let runs = task();
    let id = runs.id.clone();
    let claim = mine(worker.submit(runs).unwrap());
    assert_eq!(worker.stop(&id).unwrap(), Cancelled::Running);
    assert_eq!(notes.stopped(), id);
    worker.change(claim, again()).unwrap();
    assert_eq!(row(&web, &id).state, State::Cancelled);
    worker.close();
    web.close();
}

#[test]
fn a_watched_task_is_told_once_wherever_it_ends() {
    let folder = Folder::new();
    let (worker, of_worker) = claiming(&folder, 1);
    let (web, of_web) = watching(&folder);
    let task = task();
    let id = task.id.clone();
    let claim = mine(worker.submit(task).unwrap());
    for journal in [&web, &worker] {
        match journal.watch(&id).unwrap() {
            Found::Row(row) => assert_eq!(row.state, State::Running),
            other => panic!("{other:?}"),
        }
    }
    worker.change(claim, Change::End(finished())).unwrap();
    assert_eq!(of_web.ended().result.as_deref(), Some("42"));
    assert_eq!(of_worker.ended().id, id);
    assert_eq!(web.watch("nothing").unwrap(), Found::Unknown);
    worker.close();
    web.close();
    assert_eq!((of_web.left(), of_worker.left()), ((0, 0), (0, 0)));
}

#[test]
fn a_parked_task_waits_for_a_process_that_knows_it() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    let claim = mine(journal.submit(task).unwrap());
    let reason = "too many arguments".to_owned();
    journal
        .change(
            claim,
            Change::Park {
                reason: reason.clone(),
            },
        )
        .unwrap();
    let found = row(&journal, &id);
    assert_eq!(
        (found.state, found.reason, found.attempt),
        (State::Parked, Some(reason), 0)
    );
    assert_eq!(journal.stats().unwrap().parked, 1);
    journal.close();
    let (journal, notes_of_next) = claiming(&folder, 1);
    assert_eq!(notes_of_next.claimed().id, id);
    journal.close();
    assert_eq!(notes.left(), (0, 0));
}

#[test]
fn an_unknown_function_is_not_claimed_and_does_not_stand_in_the_way() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let unknown = NewTask {
        function: "later".to_owned(),
        ..task()
    };
    web.submit(unknown.clone()).unwrap();
    let (worker, notes) = claiming(&folder, 1);
    let claim = mine(worker.submit(task()).unwrap());
    worker.change(claim, Change::End(finished())).unwrap();
    assert_eq!(notes.left(), (0, 0));
    worker.know(vec!["later".to_owned()]);
    assert_eq!(notes.claimed().id, unknown.id);
    worker.close();
    web.close();
}

#[test]
fn published_tasks_are_seen_and_not_claimed() {
    let folder = Folder::new();
    let (owner, of_owner) = claiming(&folder, 1);
    let (web, of_web) = watching(&folder);
    let id = id();
    owner.publish(id.clone(), "plain".to_owned(), now(), None);
    let found = row(&owner, &id);
    assert_eq!((found.state, found.plain), (State::Ready, true));
    assert!(matches!(web.watch(&id).unwrap(), Found::Row(_)));
    owner.publish_began(&id, now());
    owner.publish_progress(&id, 3.0, Some(9.0), "rows".to_owned());
    assert_eq!(row(&owner, &id).state, State::Running);
    while row(&web, &id).progress != Some((3.0, Some(9.0), "rows".to_owned())) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(web.stop(&id).unwrap(), Cancelled::Running);
    assert_eq!(of_owner.stopped(), id);
    owner.publish_ended(id.clone(), finished());
    assert_eq!(of_web.ended().result.as_deref(), Some("42"));
    owner.close();
    web.close();
}

#[test]
fn a_published_task_gives_way_to_the_next_one_of_its_id() {
    let folder = Folder::new();
    let (owner, _) = claiming(&folder, 1);
    let id = id();
    for _ in 0..2 {
        owner.publish(id.clone(), "plain".to_owned(), now(), Some(now()));
        assert_eq!(row(&owner, &id).state, State::Running);
        owner.publish_ended(id.clone(), finished());
        assert_eq!(row(&owner, &id).state, State::Finished);
    }
    owner.publish(id.clone(), "other".to_owned(), now(), Some(now()));
    let found = row(&owner, &id);
    assert_eq!((&*found.function, found.state), ("other", State::Running));
    owner.publish_ended(id.clone(), Outcome::Cancelled);
    assert_eq!(row(&owner, &id).state, State::Cancelled);
    owner.close();
}

#[test]
fn progress_is_seen_by_others() {
    let folder = Folder::new();
    let (worker, _) = claiming(&folder, 1);
    let (web, _) = watching(&folder);
    let task = task();
    let id = task.id.clone();
    let claim = mine(worker.submit(task).unwrap());
    worker.progress(claim, 0.5, None, String::new());
    while row(&web, &id).progress != Some((0.5, None, String::new())) {
        std::thread::sleep(Duration::from_millis(10));
    }
    worker.close();
    web.close();
}

#[test]
fn a_change_without_a_waiter() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let task = task();
    let id = task.id.clone();
    let claim = mine(journal.submit(task).unwrap());
    let (sender, receiver) = mpsc::channel();
    let then = Box::new(move |changed| sender.send(changed).unwrap());
    journal.change_later(claim, Change::End(finished()), then);
    let changed = receiver.recv_timeout(support::LONG).unwrap();
    assert_eq!(changed.unwrap(), Changed::Done);
    assert_eq!(row(&journal, &id).state, State::Finished);
    journal.close();
    assert!(journal.get(&id).is_err());
}

#[test]
fn a_process_that_leaves_claims_nothing_more() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    journal.stop_claiming();
    let task = task();
    let id = task.id.clone();
    assert_eq!(journal.submit(task).unwrap(), Accepted::Waiting);
    let (next, of_next) = claiming(&folder, 1);
    assert_eq!(of_next.claimed().id, id);
    assert_eq!(notes.left(), (0, 0));
    journal.close();
    next.close();
}

#[test]
fn an_orderly_end_leaves_nothing_behind() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let (other, _) = claiming(&folder, 1);
    assert_eq!(journal.stats().unwrap().processes, 2);
    other.close();
    assert_eq!(journal.stats().unwrap().processes, 1);
    journal.close();
    let names = std::fs::read_dir(folder.path().join("journal")).unwrap();
    let mut left: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["reserve", "turnstile"]);
}

#[test]
fn the_log_has_its_length_from_the_first_task_on() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let length = || {
        let log = folder.path().join("journal.db-wal");
        log.metadata().unwrap().len()
    };
    let first = mine(journal.submit(task()).unwrap());
    let before = length();
    assert!(before > 4_000_000, "{before}");
    journal.change(first, Change::End(finished())).unwrap();
    let (id, claim) = {
        let task = task();
        (task.id.clone(), mine(journal.submit(task).unwrap()))
    };
    // Opened anew, as after a fork: what is in the log is still read, and its length is kept.
    flask_delay_journal::before_fork();
    flask_delay_journal::after_fork_in_parent();
    assert_eq!(row(&journal, &id).state, State::Running);
    journal.change(claim, Change::End(finished())).unwrap();
    assert_eq!(length(), before);
    let (other, _) = claiming(&folder, 1);
    assert_eq!(row(&other, &id).state, State::Finished);
    other.close();
    journal.close();
}

#[test]
fn every_level_answers() {
    use flask_delay_journal::{Settings, SyncLevel};
    for sync in [SyncLevel::Commit, SyncLevel::Second, SyncLevel::Never] {
        let folder = Folder::new();
        let (journal, _) = with(
            Settings {
                sync,
                ..settings(&folder.database())
            },
            0,
        );
        assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
        let disk = NewTask {
            sync: true,
            ..task()
        };
        assert_eq!(journal.submit(disk).unwrap(), Accepted::Waiting);
        journal.close();
        let (journal, _) = watching(&folder);
        assert_eq!(journal.stats().unwrap().ready, 2);
        journal.close();
    }
}

#[test]
fn the_file_of_something_else_is_refused() {
    let folder = Folder::new();
    std::fs::write(
        folder.database(),
        "not a database, and longer than its header would be".repeat(20),
    )
    .unwrap();
    let notes = support::Notes::new(0);
    let error = flask_delay_journal::Journal::open(settings(&folder.database()), notes)
        .err()
        .unwrap();
    assert_eq!(error.kind, flask_delay_journal::ErrorKind::Corrupt);
}

#[test]
fn a_task_of_an_outbox_comes_once_whatever_the_first_answer_was() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 4);
    let carry = |task: NewTask| journal.carry(vec![task]).remove(0);
    let first = NewTask {
        unique: Some("a".to_owned()),
        ..task()
    };
    let claim = mine(carry(first.clone()).unwrap());
    // Its own key does not make it a twin of itself.
    assert_eq!(carry(first.clone()).unwrap(), Accepted::Taken);
    let second = NewTask {
        id: id(),
        ..first.clone()
    };
    let twin = Accepted::Twin {
        id: first.id.clone(),
        function: "send".to_owned(),
        by: Key::Unique,
    };
    assert_eq!(carry(second.clone()).unwrap(), twin);
    journal.change(claim, Change::End(finished())).unwrap();
    // The key is free, but it was excluded before.
    assert_eq!(carry(second.clone()).unwrap(), Accepted::Taken);
    assert_eq!(journal.get(&second.id).unwrap(), Found::Gone);
    assert_eq!(carry(first).unwrap(), Accepted::Taken);
    journal.close();
}

#[test]
fn tasks_of_an_outbox_are_answered_for_in_their_order() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let tasks: Vec<_> = (0..5).map(|_| task()).collect();
    assert_eq!(journal.carry(vec![tasks[3].clone()]).len(), 1);
    let answers = journal.carry(tasks.clone());
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    for (number, answer) in answers.iter().enumerate() {
        let expected = if number == 3 {
            Accepted::Taken
        } else {
            Accepted::Waiting
        };
        assert_eq!(*answer, expected);
    }
    journal.close();
    assert_eq!(
        journal.carry(tasks).iter().filter(|it| it.is_err()).count(),
        5
    );
}

#[test]
fn a_journal_has_an_identity_that_stays() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let identity = journal.identity().to_owned();
    assert_eq!(identity.len(), 32);
    journal.close();
    let (again, _) = watching(&folder);
    assert_eq!(again.identity(), identity);
    again.close();
    let other = Folder::new();
    let (other, _) = watching(&other);
    assert_ne!(other.identity(), identity);
    other.close();
}

#[test]
fn a_journal_of_code_without_identities_gets_one() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let kept = task();
    journal.submit(kept.clone()).unwrap();
    journal.close();
    let connection = rusqlite::Connection::open(folder.database()).unwrap();
    let sql = "DELETE FROM meta WHERE key = 'identity'";
    assert_eq!(connection.execute(sql, []).unwrap(), 1);
    drop(connection);
    let (first, _) = watching(&folder);
    let (second, _) = watching(&folder);
    assert_eq!(first.identity().len(), 32);
    assert_eq!(second.identity(), first.identity());
    assert_eq!(row(&first, &kept.id).state, State::Ready);
    first.close();
    second.close();
}
