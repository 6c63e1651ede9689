//! Tasks that follow others.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::time::Duration;

use flask_delay_journal::{
    Accepted, Before, Cancelled, Change, Claim, Claimed, Filter, Follows, Found, GATHER, How,
    Journal, Key, Limits, NewTask, Outcome, RESULT, Retried, State, Submitted, salvage,
};
use support::{
    Folder, Notes, claiming, finished, integrity, mine, now, row, settings, shell, task, until,
    watching, with,
};

fn failed() -> Outcome {
    Outcome::Failed {
        error: "{\"type\": \"ValueError\"}".to_owned(),
    }
}

fn unkept() -> Outcome {
    Outcome::Finished {
        result: None,
        unkept: Some("shop.Order".to_owned()),
    }
}

fn returned(result: &str) -> Outcome {
    Outcome::Finished {
        result: Some(result.to_owned()),
        unkept: None,
    }
}

fn following(before: Vec<Before>, how: How) -> NewTask {
    NewTask {
        arguments: format!("{{\"args\": [1, {RESULT}]}}"),
        follows: Some(Follows {
            tasks: before,
            how,
            countdown: None,
        }),
        ..task()
    }
}

fn then(before: &NewTask) -> NewTask {
    following(vec![Before::Id(before.id.clone())], How::Success)
}

fn finally(before: &NewTask) -> NewTask {
    following(vec![Before::Id(before.id.clone())], How::End)
}

fn step(place: usize) -> NewTask {
    following(vec![Before::Place(place)], How::Success)
}

fn gather<'a>(before: impl IntoIterator<Item = &'a NewTask>) -> NewTask {
    let before = before.into_iter().map(|it| Before::Id(it.id.clone()));
    NewTask {
        function: GATHER.to_owned(),
        ..following(before.collect(), How::Gather)
    }
}

fn gather_all<'a>(before: impl IntoIterator<Item = &'a NewTask>) -> NewTask {
    let mut task = gather(before);
    if let Some(follows) = &mut task.follows {
        follows.how = How::GatherAll;
    }
    task
}

/// Three tasks, each after the one before.
fn three() -> Vec<NewTask> {
    vec![task(), step(0), step(1)]
}

fn waits(journal: &Journal, task: &NewTask) {
    assert_eq!(journal.submit(task.clone()).unwrap(), Accepted::Waiting);
}

/// Submits all of them; the claim of the first one, which runs.
fn begun(journal: &Journal, tasks: &[NewTask]) -> Claim {
    let mut done = journal.submit_all(tasks.to_vec()).unwrap();
    assert_eq!(done.refused, None);
    assert_eq!(done.accepted.len(), tasks.len());
    assert!(done.accepted[1..].iter().all(|it| *it == Accepted::Waiting));
    mine(done.accepted.remove(0))
}

fn end(journal: &Journal, claim: Claim, outcome: Outcome) {
    journal.change(claim, Change::End(outcome)).unwrap();
}

/// The next claimed task, which has to be that one.
#[track_caller]
fn next(notes: &Notes, task: &NewTask) -> Claimed {
    let claimed = notes.claimed();
    assert_eq!(claimed.id, task.id);
    claimed
}

fn state(journal: &Journal, task: &NewTask) -> State {
    row(journal, &task.id).state
}

fn count(folder: &Folder, sql: &str) -> i64 {
    shell(folder).query_row(sql, [], |row| row.get(0)).unwrap()
}

mod a_chain {
    use super::*;

    #[test]
    fn is_one_commit_and_goes_from_end_to_end() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let tasks = three();
        let claim = begun(&journal, &tasks);
        let last = row(&journal, &tasks[2].id);
        assert_eq!((last.state, last.waiting_for), (State::Blocked, 1));
        let after = Some(("send".to_owned(), tasks[1].id.clone()));
        assert_eq!(last.after, after);
        assert_eq!(journal.stats().unwrap().blocked, 2);
        end(&journal, claim, returned("[7, \"x\"]"));
        let second = next(&notes, &tasks[1]);
        assert_eq!(second.arguments, "{\"args\": [1, [7, \"x\"]]}");
        assert_eq!(state(&journal, &tasks[2]), State::Blocked);
        end(&journal, second.claim, returned("8"));
        let third = next(&notes, &tasks[2]);
        assert_eq!(third.arguments, "{\"args\": [1, 8]}");
        assert_eq!(row(&journal, &tasks[2].id).after, None);
        end(&journal, third.claim, finished());
        assert_eq!(journal.stats().unwrap().blocked, 0);
        assert_eq!(count(&folder, "SELECT count(*) FROM dependency"), 0);
        journal.close();
    }

    #[test]
    fn goes_on_from_any_process_after_a_restart() {
        let folder = Folder::new();
        let tasks = three();
        let (web, _) = watching(&folder);
        web.submit_all(tasks.clone()).unwrap();
        web.close();
        let (journal, notes) = claiming(&folder, 1);
        let first = next(&notes, &tasks[0]);
        journal.stop_claiming();
        end(&journal, first.claim, finished());
        journal.close();
        let (journal, notes) = claiming(&folder, 1);
        for task in &tasks[1..] {
            let claimed = next(&notes, task);
            end(&journal, claimed.claim, finished());
        }
        journal.close();
    }

    #[test]
    fn fails_with_a_step_and_tells_all_that_wait() {
        for (outcome, expected) in [
            (failed(), State::Failed),
            (Outcome::Cancelled, State::Cancelled),
        ] {
            let folder = Folder::new();
            let (journal, notes) = claiming(&folder, 2);
            let tasks = three();
            let claim = begun(&journal, &tasks);
            end(&journal, claim, outcome.clone());
            for task in &tasks[1..] {
                let told = notes.ended();
                assert_eq!(told.id, task.id);
                assert_eq!(told.state, expected);
                assert_eq!(told.attempt, 0);
                let error = match &outcome {
                    Outcome::Failed { error } => Some(error.clone()),
                    _ => None,
                };
                assert_eq!(told.error, error);
            }
            assert_eq!(notes.left(), (0, 0));
            journal.close();
        }
    }

    #[test]
    fn of_very_many_steps_fails_in_one_go() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 1);
        let tasks: Vec<_> = std::iter::once(task())
            .chain((0..2_000).map(step))
            .collect();
        let claim = begun(&journal, &tasks);
        end(&journal, claim, failed());
        for _ in 0..2_000 {
            assert_eq!(notes.ended().state, State::Failed);
        }
        journal.close();
    }

    #[test]
    fn is_accepted_whole_or_not_at_all() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 0);
        let other = NewTask {
            unique: Some("k".to_owned()),
            once: Some("o".to_owned()),
            ..task()
        };
        journal.submit(other.clone()).unwrap();
        let refused = |at: usize, change: &dyn Fn(&mut NewTask)| {
            let mut tasks = three();
            change(&mut tasks[at]);
            let done = journal.submit_all(tasks.clone()).unwrap();
            assert_eq!(done.accepted, []);
            for task in &tasks {
                if task.id != other.id {
                    assert_eq!(journal.get(&task.id).unwrap(), Found::Unknown);
                }
            }
            let (place, why) = done.refused.unwrap();
            assert_eq!(place, at);
            why
        };
        let twin = |by| Accepted::Twin {
            id: other.id.clone(),
            function: "send".to_owned(),
            by,
        };
        let strict = |task: &mut NewTask| {
            task.is_strict = true;
            task.unique = Some("k".to_owned());
        };
        assert_eq!(refused(2, &strict), twin(Key::Unique));
        let of_another = |task: &mut NewTask| {
            task.function = "other".to_owned();
            task.once = Some("o".to_owned());
        };
        assert_eq!(refused(1, &of_another), twin(Key::Once));
        let taken = |task: &mut NewTask| task.id.clone_from(&other.id);
        assert_eq!(refused(2, &taken), Accepted::Taken);
        let missing = |task: &mut NewTask| {
            task.follows.as_mut().unwrap().tasks = vec![Before::Id("none".to_owned())];
        };
        // That alone makes no chain of the others: see the next test.
        let mut tasks = three();
        missing(&mut tasks[1]);
        let done = journal.submit_all(tasks.clone()).unwrap();
        let expected = (1, Accepted::Missing("none".to_owned()));
        assert_eq!((done.accepted.len(), done.refused), (0, Some(expected)));
        // Among themselves.
        let mut tasks = three();
        for task in &mut tasks[1..] {
            strict(task);
            task.unique = Some("own".to_owned());
        }
        let done = journal.submit_all(tasks.clone()).unwrap();
        assert_eq!(done.refused.unwrap().0, 2);
        assert_eq!(journal.get(&tasks[0].id).unwrap(), Found::Unknown);
        journal.close();
    }

    #[test]
    fn goes_on_after_the_task_that_stands_for_a_step() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 3);
        let other = NewTask {
            unique: Some("k".to_owned()),
            ..task()
        };
        let claim = mine(journal.submit(other.clone()).unwrap());
        let mut tasks = three();
        tasks[1].unique = Some("k".to_owned());
        let done = journal.submit_all(tasks.clone()).unwrap();
        assert_eq!(done.refused, None);
        assert!(matches!(&done.accepted[1], Accepted::Twin { id, .. } if *id == other.id));
        let last = row(&journal, &tasks[2].id);
        assert_eq!(last.after.unwrap().1, other.id);
        end(&journal, claim, finished());
        next(&notes, &tasks[2]);
        journal.close();
    }

    #[test]
    fn does_not_count_among_those_that_may_wait() {
        let folder = Folder::new();
        let limited = flask_delay_journal::Settings {
            waiting: 2,
            ..settings(&folder.database())
        };
        let (journal, _) = with(limited, 0);
        journal.submit_all(three()).unwrap();
        journal.submit_all(three()).unwrap();
        let tasks = three();
        let done = journal.submit_all(tasks.clone()).unwrap();
        let expected = Submitted {
            accepted: vec![],
            refused: Some((0, Accepted::Full)),
        };
        assert_eq!(done, expected);
        assert_eq!(journal.get(&tasks[2].id).unwrap(), Found::Unknown);
        journal.close();
    }
}

mod a_follower {
    use super::*;

    #[test]
    fn of_a_task_that_has_ended_begins_at_once_or_ends() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let (good, bad) = (task(), task());
        let claim = mine(journal.submit(good.clone()).unwrap());
        end(&journal, claim, returned("5"));
        let claim = mine(journal.submit(bad.clone()).unwrap());
        end(&journal, claim, failed());
        let (after, never) = (then(&good), then(&bad));
        waits(&journal, &after);
        assert_eq!(next(&notes, &after).arguments, "{\"args\": [1, 5]}");
        waits(&journal, &never);
        let told = notes.ended();
        assert_eq!((told.id, told.state), (never.id, State::Failed));
        let none = then(&task());
        let Accepted::Missing(id) = journal.submit(none.clone()).unwrap() else {
            panic!("accepted");
        };
        assert_ne!(id, none.id);
        assert_eq!(journal.get(&none.id).unwrap(), Found::Unknown);
        journal.close();
    }

    #[test]
    fn fails_if_the_result_is_not_kept() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let tasks = three();
        let claim = begun(&journal, &tasks);
        end(&journal, claim, unkept());
        for _ in 0..2 {
            let error = notes.ended().error.unwrap();
            assert!(error.contains("flask_delay.ResultNotKept"), "{error}");
            assert!(error.contains("shop.Order"), "{error}");
            assert!(error.contains(&tasks[0].id), "{error}");
        }
        let first = Retried::Follows(Some(tasks[0].id.clone()));
        assert_eq!(journal.retry(&tasks[1].id).unwrap(), first);
        journal.close();
    }

    #[test]
    fn of_any_end_runs_after_each_kind_of_it() {
        for outcome in [finished(), failed(), Outcome::Cancelled, unkept()] {
            let folder = Folder::new();
            let (journal, notes) = claiming(&folder, 2);
            let first = task();
            let claim = mine(journal.submit(first.clone()).unwrap());
            let after = NewTask {
                arguments: "{\"args\": []}".to_owned(),
                ..finally(&first)
            };
            waits(&journal, &after);
            end(&journal, claim, outcome);
            assert_eq!(next(&notes, &after).arguments, "{\"args\": []}");
            journal.close();
        }
    }

    #[test]
    fn of_any_end_runs_after_one_that_was_cancelled_or_came_too_late() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 0);
        notes.set_capacity([None; 3]);
        let waiting = task();
        let late = NewTask {
            expires: Some(now() + 1_000),
            ..task()
        };
        let (after_it, after_late) = (finally(&waiting), finally(&late));
        for task in [&waiting, &late, &after_it, &after_late] {
            waits(&journal, task);
        }
        assert_eq!(journal.cancel(&waiting.id).unwrap(), Cancelled::Yes);
        std::thread::sleep(Duration::from_millis(2));
        notes.set_capacity([Some(3), None, None]);
        journal.wake();
        let mut found = [notes.claimed().id, notes.claimed().id];
        found.sort();
        assert_eq!(found, [after_it.id, after_late.id]);
        journal.close();
    }

    #[test]
    fn can_be_cancelled_with_what_follows_it() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let tasks = three();
        let claim = begun(&journal, &tasks);
        assert_eq!(journal.cancel(&tasks[1].id).unwrap(), Cancelled::Yes);
        for task in &tasks[1..] {
            let told = notes.ended();
            assert_eq!((told.id, told.state), (task.id.clone(), State::Cancelled));
        }
        end(&journal, claim, finished());
        assert_eq!(journal.stats().unwrap().blocked, 0);
        assert_eq!(notes.left(), (0, 0));
        journal.close();
    }

    #[test]
    fn waits_for_its_time_after_that() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let first = task();
        let claim = mine(journal.submit(first.clone()).unwrap());
        let mut soon = then(&first);
        soon.follows.as_mut().unwrap().countdown = Some(300_000);
        let late = NewTask {
            due: Some(now() + 60_000_000),
            ..then(&first)
        };
        waits(&journal, &soon);
        waits(&journal, &late);
        assert_eq!(state(&journal, &late), State::Blocked);
        let ended = now();
        end(&journal, claim, finished());
        assert_eq!(state(&journal, &late), State::Scheduled);
        let claimed = next(&notes, &soon);
        assert!(now() >= ended + 300_000);
        assert_eq!(claimed.arguments, "{\"args\": [1, 42]}");
        journal.close();
    }

    #[test]
    fn waits_for_its_limit_after_that() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let first = task();
        let claim = mine(journal.submit(first.clone()).unwrap());
        let limited = || NewTask {
            limits: Some(Box::new(Limits {
                key: "k".to_owned(),
                limit: Some(1),
                rate: None,
            })),
            ..then(&first)
        };
        let steps = [limited(), limited()];
        for step in &steps {
            waits(&journal, step);
            assert_eq!(row(&journal, &step.id).held(), None);
        }
        end(&journal, claim, finished());
        let claimed = notes.claimed();
        let other = steps.iter().find(|it| it.id != claimed.id).unwrap();
        assert_eq!(notes.left().0, 0);
        let held = row(&journal, &other.id);
        assert_eq!((held.state, held.waiting_for), (State::Blocked, 0));
        assert_eq!(held.held().unwrap().running, 1);
        end(&journal, claimed.claim, finished());
        next(&notes, other);
        journal.close();
    }

    #[test]
    fn has_a_large_result_in_its_arguments() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let large = format!("\"{}\"", "x".repeat(5_000));
        let first = task();
        let claim = mine(journal.submit(first.clone()).unwrap());
        let after = then(&first);
        waits(&journal, &after);
        end(&journal, claim, returned(&large));
        let expected = format!("{{\"args\": [1, {large}]}}");
        assert_eq!(next(&notes, &after).arguments, expected);
        assert_eq!(count(&folder, "SELECT count(*) FROM body"), 1);
        journal.close();
    }

    #[test]
    fn begins_in_another_process_that_is_free() {
        let folder = Folder::new();
        let (busy, _) = claiming(&folder, 1);
        let first = task();
        let claim = mine(busy.submit(first.clone()).unwrap());
        let other = task();
        let (free, notes) = claiming(&folder, 1);
        let (after, more) = (then(&first), finally(&first));
        waits(&busy, &after);
        waits(&busy, &more);
        end(&busy, claim, finished());
        // One of them is claimed by each.
        let claimed = notes.claimed();
        assert!([&after.id, &more.id].contains(&&claimed.id));
        drop(other);
        free.close();
        busy.close();
    }

    #[test]
    fn fails_with_a_dead_letter() {
        let folder = Folder::new();
        let deaths = |deaths| flask_delay_journal::Settings {
            deaths,
            ..settings(&folder.database())
        };
        let (journal, notes) = with(deaths(1), 2);
        journal.know(vec!["send".to_owned()]);
        journal.start().unwrap();
        let first = task();
        mine(journal.submit(first.clone()).unwrap());
        let (after, cleanup) = (then(&first), finally(&first));
        waits(&journal, &after);
        waits(&journal, &cleanup);
        // As a process leaves it that was killed.
        shell(&folder)
            .execute_batch(
                "INSERT INTO process (slot, pid, boot, code, layout, claims, began_at) SELECT 99, 99999999, boot, code, layout, 1, 0 FROM process; \
                 UPDATE task SET owner = 99 WHERE state = 2",
            )
            .unwrap();
        until(|| state(&journal, &first) == State::Dead);
        let told = notes.ended();
        assert!([&first.id, &after.id].contains(&&told.id));
        let failed = row(&journal, &after.id);
        assert_eq!(failed.state, State::Failed);
        assert!(failed.error.unwrap().contains("WorkerDied"));
        next(&notes, &cleanup);
        journal.close();
    }
}

mod a_gathering {
    use super::*;

    #[test]
    fn ends_with_the_last_one_and_what_follows_it_begins() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let tasks = [task(), task(), task()];
        let claims = tasks.clone().map(|it| mine(journal.submit(it).unwrap()));
        // One of them twice.
        let all = gather([&tasks[2], &tasks[0], &tasks[1], &tasks[0]]);
        waits(&journal, &all);
        let after = then(&all);
        waits(&journal, &after);
        let waiting = row(&journal, &all.id);
        assert_eq!((waiting.waiting_for, waiting.state), (3, State::Blocked));
        assert_eq!(waiting.after.unwrap().1, tasks[2].id);
        for (place, claim) in claims.into_iter().enumerate() {
            assert_eq!(state(&journal, &all), State::Blocked);
            end(&journal, claim, returned(&place.to_string()));
        }
        let told = notes.ended();
        assert_eq!(told.result.as_deref(), Some("[2,0,1,0]"));
        assert_eq!((told.id, told.function.as_str()), (all.id, GATHER));
        let claimed = next(&notes, &after);
        assert_eq!(claimed.arguments, "{\"args\": [1, [2,0,1,0]]}");
        journal.close();
    }

    #[test]
    fn fails_with_the_first_one_and_is_not_run_by_hand() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let tasks = [task(), task()];
        let claims = tasks.clone().map(|it| mine(journal.submit(it).unwrap()));
        let all = gather(&tasks);
        waits(&journal, &all);
        end(&journal, claims[1], failed());
        assert_eq!(notes.ended().state, State::Failed);
        end(&journal, claims[0], returned("0"));
        let why = Retried::Follows(Some(tasks[1].id.clone()));
        assert_eq!(journal.retry(&all.id).unwrap(), why);
        // It waits again for the one that runs again.
        assert_eq!(journal.retry(&tasks[1].id).unwrap(), Retried::Yes);
        assert_eq!(row(&journal, &all.id).waiting_for, 1);
        journal.watch(&all.id).unwrap();
        let claimed = next(&notes, &tasks[1]);
        end(&journal, claimed.claim, returned("1"));
        let told = notes.ended();
        assert_eq!((told.id, told.result.as_deref()), (all.id, Some("[0,1]")));
        journal.close();
    }

    #[test]
    fn of_all_ends_has_the_errors() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let tasks = [task(), task(), task(), task()];
        let claims = tasks.clone().map(|it| mine(journal.submit(it).unwrap()));
        let all = gather_all(&tasks);
        waits(&journal, &all);
        let after = then(&all);
        waits(&journal, &after);
        let outcomes = [failed(), Outcome::Cancelled, unkept(), returned("3")];
        for (claim, outcome) in claims.into_iter().zip(outcomes) {
            assert_eq!(state(&journal, &all), State::Blocked);
            end(&journal, claim, outcome);
        }
        let told = notes.ended();
        let result = told.result.unwrap();
        let start = r#"[{"$exception":"{\"type\": \"ValueError\"}"},{"$exception":"{\"type\": \"concurrent.futures._base.CancelledError\","#;
        assert!(result.starts_with(start), "{result}");
        assert!(result.contains("shop.Order"), "{result}");
        assert!(result.ends_with("},3]"), "{result}");
        let claimed = next(&notes, &after);
        assert_eq!(claimed.arguments, format!("{{\"args\": [1, {result}]}}"));
        journal.close();
    }

    #[test]
    fn of_all_ends_waits_again_for_one_that_runs_again() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let tasks = [task(), task()];
        let claims = tasks.clone().map(|it| mine(journal.submit(it).unwrap()));
        let all = gather_all([&tasks[0], &tasks[1], &tasks[0]]);
        waits(&journal, &all);
        end(&journal, claims[0], failed());
        assert_eq!(row(&journal, &all.id).waiting_for, 1);
        assert_eq!(journal.retry(&tasks[0].id).unwrap(), Retried::Yes);
        assert_eq!(row(&journal, &all.id).waiting_for, 2);
        end(&journal, claims[1], returned("1"));
        assert_eq!(state(&journal, &all), State::Blocked);
        end(&journal, next(&notes, &tasks[0]).claim, returned("0"));
        assert_eq!(notes.ended().result.as_deref(), Some("[0,1,0]"));
        journal.close();
    }

    #[test]
    fn is_no_longer_than_a_result_may_be() {
        let folder = Folder::new();
        let narrow = flask_delay_journal::Settings {
            most: 10,
            ..settings(&folder.database())
        };
        let (journal, notes) = with(narrow, 4);
        journal.know(vec!["send".to_owned()]);
        journal.start().unwrap();
        let tasks = [task(), task()];
        for (task, result) in tasks.iter().zip(["12345", "678"]) {
            end(
                &journal,
                mine(journal.submit(task.clone()).unwrap()),
                returned(result),
            );
        }
        waits(&journal, &gather(&tasks));
        let told = notes.ended();
        assert_eq!((told.state, told.result), (State::Failed, None));
        let error = told.error.unwrap();
        assert!(error.contains("the limit of 10 bytes"), "{error}");
        waits(&journal, &gather(&tasks[..1]));
        assert_eq!(notes.ended().result.as_deref(), Some("[12345]"));
        journal.close();
    }

    #[test]
    fn of_ended_ones_ends_at_once() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 4);
        let tasks = [task(), task()];
        for task in &tasks {
            let claim = mine(journal.submit(task.clone()).unwrap());
            end(&journal, claim, finished());
        }
        waits(&journal, &gather(&tasks));
        assert_eq!(notes.ended().result.as_deref(), Some("[42,42]"));
        journal.close();
    }
}

mod a_retry {
    use super::*;

    #[test]
    fn of_a_step_lets_the_chain_go_on() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let tasks = three();
        let claim = begun(&journal, &tasks);
        let cleanup = finally(&tasks[0]);
        waits(&journal, &cleanup);
        end(&journal, claim, failed());
        end(&journal, next(&notes, &cleanup).claim, finished());
        assert_eq!(
            (notes.ended().id, notes.ended().id),
            (tasks[1].id.clone(), tasks[2].id.clone())
        );
        let why = Retried::Follows(Some(tasks[1].id.clone()));
        assert_eq!(journal.retry(&tasks[2].id).unwrap(), why);
        assert_eq!(journal.retry(&tasks[0].id).unwrap(), Retried::Yes);
        for task in &tasks[1..] {
            let row = row(&journal, &task.id);
            assert_eq!(
                (row.state, row.error, row.ended),
                (State::Blocked, None, None)
            );
        }
        for task in &tasks {
            end(&journal, next(&notes, task).claim, finished());
        }
        // What runs after each end has run.
        assert_eq!(state(&journal, &cleanup), State::Finished);
        assert_eq!(notes.left(), (0, 0));
        journal.close();
    }

    #[test]
    fn leaves_a_step_alone_that_another_one_stands_for_now() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 2);
        let mut tasks = three();
        tasks[1].unique = Some("k".to_owned());
        let claim = begun(&journal, &tasks);
        end(&journal, claim, failed());
        let other = NewTask {
            unique: Some("k".to_owned()),
            ..task()
        };
        mine(journal.submit(other).unwrap());
        assert_eq!(journal.retry(&tasks[0].id).unwrap(), Retried::Yes);
        assert_eq!(state(&journal, &tasks[1]), State::Failed);
        assert_eq!(state(&journal, &tasks[2]), State::Failed);
        journal.close();
    }
}

mod many {
    use super::*;

    #[test]
    fn are_accepted_up_to_the_first_that_is_refused() {
        let folder = Folder::new();
        let limited = flask_delay_journal::Settings {
            waiting: 3,
            ..settings(&folder.database())
        };
        let (journal, _) = with(limited, 0);
        let tasks: Vec<_> = (0..5).map(|_| task()).collect();
        let done = journal.submit_all(tasks.clone()).unwrap();
        assert_eq!(done.accepted, vec![Accepted::Waiting; 3]);
        assert_eq!(done.refused, Some((3, Accepted::Full)));
        assert_eq!(journal.get(&tasks[3].id).unwrap(), Found::Unknown);
        assert_eq!(journal.get(&tasks[4].id).unwrap(), Found::Unknown);
        journal.close();
    }

    #[test]
    fn are_started_as_far_as_there_are_workers() {
        let folder = Folder::new();
        let (journal, notes) = claiming(&folder, 2);
        let tasks: Vec<_> = (0..50).map(|_| task()).collect();
        let done = journal.submit_all(tasks.clone()).unwrap();
        let started = done
            .accepted
            .iter()
            .filter(|it| matches!(it, Accepted::Mine(_)));
        assert_eq!(started.count(), 2);
        for accepted in done.accepted.into_iter().take(2) {
            end(&journal, mine(accepted), finished());
        }
        for task in &tasks[2..] {
            journal.wake();
            end(&journal, next(&notes, task).claim, finished());
        }
        journal.close();
    }
}

mod the_file {
    use super::*;

    #[test]
    fn keeps_what_a_follower_needs() {
        let folder = Folder::new();
        let short = flask_delay_journal::Settings {
            keep: Duration::ZERO,
            limit: 1,
            ..settings(&folder.database())
        };
        let (journal, _) = with(short, 2);
        journal.know(vec!["send".to_owned()]);
        journal.start().unwrap();
        let tasks = [task(), task()];
        let claims = tasks.clone().map(|it| mine(journal.submit(it).unwrap()));
        let all = gather(&tasks);
        waits(&journal, &all);
        end(&journal, claims[0], returned("0"));
        let other = then(&tasks[0]);
        assert_eq!(journal.submit(other).unwrap(), Accepted::Waiting);
        assert_eq!(journal.prune(&Filter::default()).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(state(&journal, &tasks[0]), State::Finished);
        end(&journal, claims[1], returned("1"));
        // Then they go.
        until(|| journal.get(&tasks[0].id).unwrap() == Found::Gone);
        until(|| journal.get(&all.id).unwrap() == Found::Gone);
        assert_eq!(count(&folder, "SELECT count(*) FROM dependency"), 0);
        assert_eq!(journal.retry(&all.id).unwrap(), Retried::Gone);
        journal.close();
    }

    #[test]
    fn that_is_salvaged_has_no_follower_that_waits_for_ever() {
        let folder = Folder::new();
        let (journal, _) = watching(&folder);
        let (lost, whole) = (three(), three());
        journal.submit_all(lost.clone()).unwrap();
        journal.submit_all(whole.clone()).unwrap();
        journal.close();
        let sql = "DELETE FROM task WHERE id = ?1";
        shell(&folder).execute(sql, [&lost[0].id]).unwrap();
        let saved = folder.path().join("saved.db");
        salvage(&folder.database(), &saved).unwrap();
        let (journal, _) = with(settings(&saved), 0);
        for task in &lost[1..] {
            assert_eq!(state(&journal, task), State::Failed);
        }
        for task in &whole[1..] {
            assert_eq!(state(&journal, task), State::Blocked);
        }
        journal.close();
        assert_eq!(integrity(&shell(&folder)).unwrap(), "ok");
    }
}
