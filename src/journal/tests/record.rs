//! What a page shows of all processes: samples, figures, events, and processes that have died.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::time::Instant;

use flask_delay_journal::{Change, Figures, Histogram, Journal, NewTask, Outcome, Sample, Vitals};
use process::{Actor, role, wait_for_end};
use support::{
    Folder, again, claiming, finished, mine, say, settings, shell, task, until, watching, with,
};

#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (_, folder) = role();
    let (journal, notes) = with(settings(&folder.join("journal.db")), 8);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    notes.claimed();
    journal.sample(Sample {
        at: 7,
        vitals: Some(vitals(3)),
        ..Sample::default()
    });
    until(|| has_told(&journal));
    say("claimed");
    wait_for_end();
}

fn has_told(journal: &Journal) -> bool {
    let workers = journal.workers().unwrap();
    workers.iter().any(|it| it.is_own && it.seen_at.is_some())
}

fn vitals(threads: u32) -> Vitals {
    Vitals {
        about: "{\"host\": \"here\"}".to_owned(),
        threads: [threads, 1, 2, 0, 0],
        memory: Some(1_000_000),
    }
}

fn times(milliseconds: &[u64]) -> Histogram {
    let mut times = Histogram::default();
    for time in milliseconds {
        times.record(time * 1_000_000);
    }
    times
}

fn figures(done: u64, failed: u64, milliseconds: &[u64]) -> Figures {
    Figures {
        done,
        failed,
        wait: times(&[1]),
        run: times(milliseconds),
        ..Figures::default()
    }
}

fn sample(at: i64, levels: [u32; 3], figures: Figures) -> Sample {
    Sample {
        at,
        levels,
        names: vec![("send".to_owned(), figures)],
        vitals: None,
    }
}

#[test]
fn samples_of_processes_are_added() {
    let folder = Folder::new();
    let (one, _) = watching(&folder);
    let (other, _) = watching(&folder);
    one.sample(sample(1_000, [1, 0, 2], figures(2, 0, &[10, 10])));
    other.sample(sample(1_000, [3, 1, 1], figures(1, 1, &[30, 500])));
    // Samples come with the next group.
    until(|| {
        one.steps(1)
            .unwrap()
            .first()
            .is_some_and(|it| it.ended == [3, 1])
    });
    one.sample(sample(1_001, [0, 0, 1], figures(1, 0, &[10])));
    until(|| one.steps(1).unwrap().len() == 2);

    let seconds = other.steps(1).unwrap();
    assert_eq!(seconds[0].levels, [4, 1, 3]);
    let [half, most] = seconds[0].times[1].unwrap();
    assert!((10_000..10_200).contains(&half), "{half}");
    assert!((500_000..505_000).contains(&most), "{most}");
    for step in [5, 120, 3_600] {
        let [found] = other.steps(step).unwrap().try_into().unwrap();
        assert_eq!((found.at, found.ended), (1_000 - 1_000 % step, [4, 1]));
        // The most of its seconds, and not their sum.
        assert_eq!(found.levels, [4, 1, 3]);
    }
    let [(name, all)] = one.figures().unwrap().try_into().unwrap();
    assert_eq!((name.as_str(), all.done, all.failed), ("send", 4, 1));
    assert_eq!((all.run.count(), all.wait.count()), (5, 3));
    assert_eq!(all.run, times(&[10, 10, 30, 500, 10]));
    assert_eq!(one.minutes(0).unwrap(), [("send".to_owned(), 16, 5)]);
}

#[test]
fn the_first_of_a_second_adds_what_waits_in_the_journal() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    journal.submit(task()).unwrap();
    journal.sample(sample(1_000, [0, 0, 0], figures(1, 0, &[1])));
    journal.sample(sample(1_000, [0, 0, 0], figures(1, 0, &[1])));
    until(|| {
        journal
            .steps(1)
            .unwrap()
            .first()
            .is_some_and(|it| it.ended == [2, 0])
    });
    assert_eq!(journal.steps(1).unwrap()[0].levels, [1, 0, 0]);
}

#[test]
fn old_samples_go() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    for at in [0, 1_000, 40_000, 800_000] {
        journal.sample(sample(at, [0, 0, 1], figures(1, 0, &[1])));
    }
    until(|| {
        journal
            .steps(1)
            .unwrap()
            .last()
            .is_some_and(|it| it.at == 800_000)
    });
    let kept = |step| journal.steps(step).unwrap().len();
    assert_eq!((kept(1), kept(120), kept(3_600)), (1, 1, 1));
    journal.sample(sample(800_010, [0, 0, 1], figures(1, 0, &[1])));
    until(|| journal.steps(1).unwrap().len() == 2);
}

#[test]
fn a_killed_process_is_remembered_with_its_tasks() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    web.record();
    let task = task();
    web.submit(task.clone()).unwrap();
    let mut holder = Actor::start("hold", folder.path());
    holder.hear("claimed");
    let (worker, notes) = claiming(&folder, 1);
    worker.record();
    let before = worker.workers().unwrap();
    assert_eq!(before.len(), 2);
    assert!(before.iter().all(|it| it.lost_at.is_none()));
    let there = before.iter().find(|it| !it.is_own).unwrap();
    assert_eq!(there.vitals, vitals(3));
    holder.kill();
    let claimed = notes.claimed();
    let after = worker.workers().unwrap();
    let lost = after.iter().find(|it| it.lost_at.is_some()).unwrap();
    assert_eq!((lost.pid, &lost.tasks), (there.pid, &vec![task.id.clone()]));
    assert_eq!(lost.vitals, there.vitals);
    worker.note(&task.id, "stop", Some("ada"));
    until(|| web.events(&task.id).unwrap().len() == 4);
    let events = web.events(&task.id).unwrap();
    let kinds: Vec<_> = events.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["started", "died", "started", "acted"]);
    assert_eq!(events[3].actor.as_deref(), Some("ada"));
    worker
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    worker.close();
    // What has closed the journal is not lost.
    assert_eq!(web.workers().unwrap().len(), 1);
}

#[test]
fn what_happens_to_a_task_is_noted_once_there_is_a_page() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let quiet = task();
    let claim = mine(journal.submit(quiet.clone()).unwrap());
    journal.change(claim, again()).unwrap();
    journal
        .change(notes.claimed().claim, Change::End(finished()))
        .unwrap();
    // Its first start is in its row.
    let told = journal.events(&quiet.id).unwrap();
    let told: Vec<_> = told.iter().map(|it| (it.kind.as_str(), it.pid)).collect();
    assert_eq!(told, [("started", i64::from(std::process::id()))]);
    journal.record();
    let task = task();
    let claim = mine(journal.submit(task.clone()).unwrap());
    journal
        .change(
            claim,
            Change::Again {
                due: None,
                why: Some("ValueError\nbad".to_owned()),
            },
        )
        .unwrap();
    let error = "{}".to_owned();
    journal
        .change(
            notes.claimed().claim,
            Change::End(Outcome::Failed { error }),
        )
        .unwrap();
    journal.retry(&task.id).unwrap();
    journal
        .change(notes.claimed().claim, Change::PutBack)
        .unwrap();
    journal
        .change(notes.claimed().claim, Change::End(finished()))
        .unwrap();
    let events = journal.events(&task.id).unwrap();
    assert_eq!(
        events[1].text.as_deref(),
        Some("attempt 1\nValueError\nbad")
    );
    let kinds: Vec<_> = events.into_iter().map(|it| it.kind).collect();
    let expected = [
        "started", "retrying", "started", "failed", "retried", "started", "put back", "started",
    ];
    assert_eq!(kinds, expected);
    journal
        .prune(&flask_delay_journal::Filter::default())
        .unwrap();
    let left: i64 = shell(&folder)
        .query_row("SELECT count(*) FROM event", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn what_holds_a_task_is_noted() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    journal.record();
    let held = |journal: &Journal, id: &str| {
        let events = journal.events(id).unwrap();
        let held = events.into_iter().filter(|it| it.kind == "held");
        held.map(|it| it.text.unwrap()).collect::<Vec<_>>()
    };
    let late = NewTask {
        due: Some(9_000_000_000_000_000),
        ..task()
    };
    journal.submit(late.clone()).unwrap();
    assert_eq!(held(&journal, &late.id), ["until 9000000000000000"]);
    let first = task();
    journal.submit(first.clone()).unwrap();
    assert!(held(&journal, &first.id).is_empty());
}

#[test]
fn full_tables_are_read_whole() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    journal.sample(sample(1, [0, 0, 0], figures(1, 0, &[1, 5, 20])));
    until(|| !journal.steps(1).unwrap().is_empty());
    let shell = shell(&folder);
    shell
        .execute_batch(
            "BEGIN; WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 180) \
             INSERT OR IGNORE INTO sample SELECT application, length, n * length, 5, 1, 2, 3, 4, NULL, NULL, 5, 6, 7, 8 \
             FROM n, (SELECT 5 AS length UNION SELECT 120 UNION SELECT 3600), sample WHERE step = 1 AND at = 1; \
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200) \
             INSERT OR IGNORE INTO figure SELECT application, 86400, day * 86400, 'name ' || n, 5, 1, 2, 3, 4, wait, run \
             FROM n, figure, (SELECT 0 AS day UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6) \
             WHERE step = 86400 AND at = 0; \
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50000) \
             INSERT INTO event (task, at, kind, pid) SELECT n / 5, n, 'started', 1 FROM n; COMMIT",
        )
        .unwrap();
    let spent = |what: &dyn Fn() -> usize| {
        // The first one compiles the statement and fills the cache.
        let all: Vec<_> = (0..5)
            .map(|_| {
                let began = Instant::now();
                (what(), began.elapsed())
            })
            .collect();
        let (count, spent) = all.into_iter().min_by_key(|(_, spent)| *spent).unwrap();
        say(&format!("{count} rows in {spent:?}"));
        count
    };
    for (step, most) in [(5, 180), (120, 180), (3_600, 168)] {
        assert!(spent(&|| journal.steps(step).unwrap().len()) >= most);
    }
    assert!(spent(&|| journal.figures().unwrap().len()) >= 200);
    spent(&|| journal.minutes(0).unwrap().len());
    spent(&|| journal.workers().unwrap().len());
    spent(&|| journal.events("none").unwrap().len());
}
