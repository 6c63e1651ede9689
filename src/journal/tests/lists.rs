//! Lists of tasks: by submission, in the order of the starts, by the ends.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::sync::Arc;

use flask_delay_journal::{
    Accepted, Bound, Change, Filter, Journal, Limits, List, NewTask, Outcome, Row, State,
};
use support::{Folder, Notes, claiming, mine, now, row, settings, shell, task, watching, with};

fn failed() -> Outcome {
    of_class("builtins.ValueError")
}

fn of_class(class: &str) -> Outcome {
    Outcome::Failed {
        error: format!("{{\"type\": \"{class}\", \"message\": \"no\"}}"),
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

fn one(task: &NewTask) -> Vec<String> {
    vec![task.id.clone()]
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

fn listed(journal: &Journal, list: List) -> Vec<Row> {
    journal.listed(list, None, 99, false).unwrap()
}

fn listed_ids(journal: &Journal, list: List) -> Vec<String> {
    listed(journal, list)
        .into_iter()
        .map(|row| row.id)
        .collect()
}

fn of_functions(journal: &Journal, list: List, functions: &[&str]) -> Vec<String> {
    let names = functions.iter().map(|&it| it.to_owned()).collect();
    let rows = journal.listed(list, Some(names), 99, false).unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// A journal that runs what is submitted to it, one task at a time.
fn busy(folder: &Folder) -> (Journal, Arc<Notes>, flask_delay_journal::Claim) {
    let (journal, notes) = claiming(folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    (journal, notes, claim)
}

mod a_list {
    use super::*;

    #[test]
    fn has_the_newest_first_in_parts() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let tasks: Vec<_> = (0..5).map(|_| task()).collect();
        for task in &tasks {
            web.submit(task.clone()).unwrap();
        }
        let new = |range: std::ops::Range<usize>| {
            let ids = tasks[range].iter().rev().map(|task| task.id.clone());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(ids(&web, &all(), 100, None), new(0..5));
        assert_eq!(ids(&web, &all(), 2, None), new(3..5));
        assert_eq!(ids(&web, &all(), 2, Some(&tasks[3].id)), new(1..3));
        assert_eq!(ids(&web, &all(), 2, Some(&tasks[0].id)), [""; 0]);
        assert_eq!(web.list(&all(), 2, Some("none")).unwrap(), None);
        web.close();
    }

    #[test]
    fn has_what_is_meant_among_very_many() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let rare = of("rare");
        web.submit(rare.clone()).unwrap();
        // More than one step looks at.
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..280 {
                        web.submit(task()).unwrap();
                    }
                });
            }
        });
        let filter = Filter {
            functions: Some(vec!["rare".to_owned()]),
            ..all()
        };
        assert_eq!(ids(&web, &filter, 5, None), one(&rare));
        assert_eq!(ids(&web, &all(), 4481, None).len(), 4481);
        assert_eq!(ids(&web, &all(), 4480, None).len(), 4480);
        web.close();
    }

    #[test]
    fn has_states_and_only_tasks_of_the_app() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 1);
        let (first, late) = (
            task(),
            NewTask {
                due: Some(now() + 60_000_000),
                ..task()
            },
        );
        let claim = mine(journal.submit(first.clone()).unwrap());
        journal.submit(late.clone()).unwrap();
        let waiting = task();
        assert_eq!(journal.submit(waiting.clone()).unwrap(), Accepted::Waiting);
        assert_eq!(
            ids(&journal, &in_state(State::Running), 9, None),
            one(&first)
        );
        assert_eq!(
            ids(&journal, &in_state(State::Scheduled), 9, None),
            one(&late)
        );
        assert_eq!(
            ids(&journal, &in_state(State::Ready), 9, None),
            one(&waiting)
        );
        journal.change(claim, Change::End(failed())).unwrap();
        assert_eq!(
            ids(&journal, &in_state(State::Failed), 9, None),
            one(&first)
        );
        let other = flask_delay_journal::Settings {
            app: "other|delay".to_owned(),
            ..settings(&folder.database())
        };
        let (other, _) = with(other, 0);
        assert_eq!(ids(&other, &all(), 9, None), [""; 0]);
        other.submit(task()).unwrap();
        assert_eq!(ids(&other, &all(), 9, None).len(), 1);
        assert_eq!(other.names().unwrap(), ["send"]);
        for journal in [other, journal] {
            journal.close();
        }
    }
}

mod what_waits_for_a_worker {
    use super::*;

    #[test]
    fn is_in_the_order_of_the_starts() {
        let folder = Folder::new();
        let (journal, notes, claim) = busy(&folder);
        let born = now();
        let of_rank = |rank| NewTask { rank, ..task() };
        let tasks = [
            of_rank(born + 3),
            of_rank(born + 1),
            of_rank(born + 2),
            of_rank(born + 1),
        ];
        for task in &tasks {
            journal.submit(task.clone()).unwrap();
        }
        let ordered = [1, 3, 2, 0].map(|place: usize| tasks[place].id.clone());
        assert_eq!(listed_ids(&journal, List::Ready), ordered);
        assert_eq!(
            journal.listed(List::Ready, None, 2, false).unwrap().len(),
            2
        );
        assert_eq!(of_functions(&journal, List::Ready, &["send"]), ordered);
        assert_eq!(of_functions(&journal, List::Ready, &["other"]), [""; 0]);
        // They do start so.
        let mut claim = claim;
        for id in &ordered {
            journal
                .change(claim, Change::End(support::finished()))
                .unwrap();
            let claimed = notes.claimed();
            assert_eq!(claimed.id, *id);
            claim = claimed.claim;
        }
        journal.close();
    }

    #[test]
    fn has_arguments_only_if_asked_for_and_no_more_than_is_shown() {
        let folder = Folder::new();
        let (journal, _, _) = busy(&folder);
        for arguments in ["[1]".to_owned(), format!("[\"{}\"]", "x".repeat(9_000))] {
            journal
                .submit(NewTask {
                    arguments,
                    ..task()
                })
                .unwrap();
        }
        let rows = journal.listed(List::Ready, None, 9, true).unwrap();
        assert_eq!(rows[0].arguments.as_deref(), Some("[1]"));
        assert_eq!(rows[1].arguments.as_ref().unwrap().len(), 4_000);
        assert_eq!(listed(&journal, List::Ready)[0].arguments, None);
        journal.close();
    }
}

mod what_is_held {
    use super::*;

    #[test]
    fn begins_with_what_has_a_time() {
        let folder = Folder::new();
        let (journal, _, _) = busy(&folder);
        let later = |seconds: i64| NewTask {
            due: Some(now() + seconds * 1_000_000),
            ..task()
        };
        let limited = NewTask {
            limits: Some(Box::new(Limits {
                key: "=\"lane\"".to_owned(),
                limit: Some(1),
                rate: None,
            })),
            ..task()
        };
        let paused = of("rest");
        journal.pause(Some("rest")).unwrap();
        let (late, soon) = (later(900), later(60));
        let first = limited.clone();
        let second = NewTask {
            id: support::id(),
            ..limited
        };
        for task in [&late, &paused, &first, &second, &soon] {
            journal.submit(task.clone()).unwrap();
        }
        // The first of the lane is ready, and holds no place yet.
        let held: Vec<_> = listed(&journal, List::Held);
        let found: Vec<_> = held.iter().map(|row| row.id.clone()).collect();
        let blocked = row(&journal, &second.id).state == State::Blocked;
        let mut expected = vec![soon.id.clone(), late.id.clone(), paused.id.clone()];
        expected.extend(blocked.then(|| second.id.clone()));
        assert_eq!(found, expected);
        assert!(held[2].is_paused);
        assert_eq!(of_functions(&journal, List::Held, &["rest"]), one(&paused));
        assert!(!listed_ids(&journal, List::Ready).contains(&paused.id));
        // All of them, whether or not they were set aside.
        journal.pause(None).unwrap();
        assert_eq!(listed_ids(&journal, List::Ready), [""; 0]);
        assert_eq!(listed(&journal, List::Held).len(), 5);
        journal.close();
    }
}

mod what_runs {
    use super::*;

    #[test]
    fn is_in_the_order_of_the_starts_with_its_process() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 2);
        let tasks = [task(), task()];
        for task in &tasks {
            mine(journal.submit(task.clone()).unwrap());
        }
        let rows = listed(&journal, List::Running);
        let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
        assert_eq!(ids, tasks.map(|task| task.id));
        assert_eq!(rows[0].pid, Some(i64::from(std::process::id())));
        assert_eq!(rows[0].attempt_began, rows[0].began);
        journal.close();
    }
}

mod what_has_ended {
    use super::*;

    /// So many tasks that end in very few different microseconds.
    fn ended(count: usize) -> (Folder, Journal) {
        let folder = Folder::new();
        let (journal, _) = watching(&folder);
        for number in 0..count {
            journal.submit(of(["one", "two"][number % 2])).unwrap();
        }
        journal.close();
        let sql = "UPDATE task SET state = CASE sequence % 5 WHEN 0 THEN 7 WHEN 1 THEN 8 WHEN 2 THEN 9 ELSE 6 END, \
                   ended_at = 1000 + sequence / 7 % 3, error = CASE WHEN sequence % 5 IN (0, 2) \
                   THEN '{\"type\": \"shop.' || CASE WHEN sequence % 4 THEN 'Missing' ELSE 'Late' END || '\"}' END";
        shell(&folder).execute_batch(sql).unwrap();
        let (journal, _) = watching(&folder);
        (folder, journal)
    }

    /// All parts of a list, each of so many rows.
    fn in_parts(
        journal: &Journal,
        list: impl Fn(Option<Bound>) -> List,
        functions: Option<&str>,
        most: usize,
    ) -> Vec<Row> {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let names = functions.map(|it| vec![it.to_owned()]);
            let part = journal.listed(list(before), names, most, false).unwrap();
            let Some(last) = part.last() else {
                return found;
            };
            before = Some(Bound {
                ended: last.ended.unwrap(),
                place: last.place,
            });
            found.extend(part);
        }
    }

    fn order(rows: &[Row]) -> Vec<(i64, i64)> {
        rows.iter()
            .map(|row| (row.ended.unwrap(), row.place))
            .collect()
    }

    #[test]
    fn is_in_parts_that_neither_skip_nor_repeat() {
        let (_folder, journal) = ended(100);
        for most in [1, 7, 100] {
            let rows = in_parts(&journal, List::Ended, None, most);
            assert_eq!(rows.len(), 60);
            assert!(order(&rows).windows(2).all(|it| it[0] > it[1]));
            assert!(rows.iter().all(|row| row.error.is_none()));
        }
        let rows = in_parts(&journal, List::Ended, Some("one"), 4);
        assert_eq!(rows.len(), 30);
        assert!(rows.iter().all(|row| row.function == "one"));
        journal.close();
    }

    #[test]
    fn has_failures_by_class_and_function() {
        let (_folder, journal) = ended(100);
        let any = |before| List::Failed(before, None);
        let late = |before| List::Failed(before, Some(vec!["shop.Late".to_owned()]));
        let rows = in_parts(&journal, any, None, 7);
        assert_eq!(rows.len(), 40);
        assert!(order(&rows).windows(2).all(|it| it[0] > it[1]));
        let rows = in_parts(&journal, late, None, 3);
        assert_eq!(rows.len(), 10);
        assert!(
            rows.iter()
                .all(|row| row.error.as_ref().unwrap().contains("Late"))
        );
        let of_two = in_parts(&journal, late, Some("two"), 3);
        let count = rows.iter().filter(|row| row.function == "two").count();
        assert_eq!(of_two.len(), count);
        let classes = |names: Option<&str>, since| {
            let names = names.map(|it| vec![it.to_owned()]);
            let found = journal.classes(names, since).unwrap();
            let found = found
                .into_iter()
                .map(|it| (it.name.unwrap(), it.count, it.last));
            found.collect::<Vec<_>>()
        };
        let (missing, late) = ("shop.Missing".to_owned(), "shop.Late".to_owned());
        assert_eq!(classes(None, 0), [(missing, 30, 1002), (late, 10, 1002)]);
        let sum = |found: Vec<(String, u64, i64)>| found.iter().map(|it| it.1).sum::<u64>();
        assert_eq!(
            sum(classes(Some("two"), 0)) + sum(classes(Some("one"), 0)),
            40
        );
        assert!(sum(classes(None, 1002)) < 20);
        assert_eq!(sum(classes(None, 1003)), 0);
        journal.close();
    }

    #[test]
    fn has_errors_that_nobody_can_read() {
        let folder = Folder::new();
        let (journal, _) = claiming(&folder, 1);
        for error in ["", "{", "[1]", "{\"type\": 7}"] {
            let claim = mine(journal.submit(task()).unwrap());
            let error = error.to_owned();
            let end = Change::End(Outcome::Failed { error });
            journal.change(claim, end).unwrap();
        }
        assert_eq!(listed(&journal, List::Failed(None, None)).len(), 4);
        assert_eq!(journal.classes(None, 0).unwrap()[0].count, 4);
        journal.close();
    }
}

mod the_version {
    use super::*;

    #[test]
    fn changes_with_the_commits_of_all_and_with_nothing_else() {
        let folder = Folder::new();
        let ((one, _), (two, _)) = (watching(&folder), watching(&folder));
        for journal in [&one, &two] {
            journal.submit(task()).unwrap();
        }
        let versions = || (one.version().unwrap(), two.version().unwrap());
        let mut last = versions();
        assert_eq!(versions(), last);
        let mut changes = |act: &dyn Fn()| {
            act();
            let next = versions();
            assert_ne!(next.0, last.0);
            assert_ne!(next.1, last.1);
            last = next;
            assert_eq!(versions(), last);
        };
        changes(&|| drop(one.submit(task()).unwrap()));
        changes(&|| drop(two.submit(task()).unwrap()));
        changes(&|| two.pause(Some("rest")).unwrap());
        for journal in [two, one] {
            journal.close();
        }
    }
}
