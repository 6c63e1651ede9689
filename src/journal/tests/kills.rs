//! Processes that submit and run tasks are killed at random, and a file that each writes to says
//! how all have ended: nothing accepted is lost, and no task runs twice at once.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/app.rs"]
mod app;
#[path = "support/process.rs"]
mod process;
mod support;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use app::{Running, done};
use flask_delay_journal::{Claimed, NewTask, Settings, SyncLevel};
use process::{Actor, pause, role, wait_for_end};
use support::{Folder, LONG, Random, integrity, now, say, settings, shell, task};

/// Random numbers, different in each thread and process.
fn random() -> Random {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Random::new(NEXT.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id()))
}

/// Where the processes note what they do: a line in one write, so that none is torn.
struct Oracle(File);

impl Oracle {
    fn new(folder: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("oracle"))
            .unwrap();
        Self(file)
    }

    fn note(&self, what: &str, id: &str, epoch: i64) {
        let line = format!("{what} {id} {epoch} {} {}\n", std::process::id(), now());
        (&self.0).write_all(line.as_bytes()).unwrap();
    }
}

fn start(folder: &Path, sync: SyncLevel, deaths: u32) -> Running {
    let settings = Settings {
        sync,
        deaths,
        ..settings(&folder.join("journal.db"))
    };
    let oracle = Oracle::new(folder);
    let work = move |task: &Claimed| {
        oracle.note("start", &task.id, task.claim.epoch);
        if task.function == "poison" {
            thread::sleep(Duration::from_millis(2));
            process::die();
        }
        pause(&mut random(), Duration::from_millis(3));
        oracle.note("end", &task.id, task.claim.epoch);
        done()
    };
    Running::start(settings, &["send", "poison"], 4, Arc::new(work)).unwrap()
}

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    let (kind, sync) = role.split_once(' ').unwrap();
    let sync = match sync {
        "commit" => SyncLevel::Commit,
        _ => SyncLevel::Never,
    };
    // Random kills look like poison.
    let deaths = if kind == "poison" { 3 } else { 1_000_000 };
    let running = start(&folder, sync, deaths);
    say("running");
    if kind != "submit" {
        return wait_for_end();
    }
    let oracle = Arc::new(Oracle::new(&folder));
    for _ in 0..2 {
        let (running, oracle) = (running.clone(), Arc::clone(&oracle));
        thread::spawn(move || {
            let mut random = random();
            loop {
                let task = task();
                let id = task.id.clone();
                running.submit(task).unwrap();
                oracle.note("accepted", &id, 0);
                pause(&mut random, Duration::from_millis(2));
            }
        });
    }
    wait_for_end();
}

fn number(folder: &Folder, sql: &str) -> i64 {
    shell(folder).query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Waits until nothing is left to run.
fn drain(folder: &Folder) {
    let began = Instant::now();
    while number(folder, "SELECT count(*) FROM task WHERE state < 6") > 0 {
        assert!(began.elapsed() < LONG * 4, "some tasks never end");
        thread::sleep(Duration::from_millis(50));
    }
}

/// One start of a task.
struct Start {
    at: i64,
    pid: u32,
    epoch: i64,
}

fn kill_often(sync: &str, kills: usize) {
    let folder = Folder::new();
    let spawn = |kind: &str| Actor::start(&format!("{kind} {sync}"), folder.path());
    let mut random = random();
    let died = process::kill_often(kills, &mut random, Duration::from_millis(120), || {
        spawn("submit")
    });
    let last = [spawn("work"), spawn("work")];
    drain(&folder);
    last.into_iter().for_each(Actor::end);

    let text = std::fs::read_to_string(folder.path().join("oracle")).unwrap();
    let mut accepted = Vec::new();
    let mut starts: HashMap<&str, Vec<Start>> = HashMap::new();
    let mut ends: HashMap<(&str, i64), i64> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, epoch, pid, at] = words[..] else {
            panic!("a torn line: {line}");
        };
        let (epoch, at) = (epoch.parse().unwrap(), at.parse().unwrap());
        match what {
            "accepted" => accepted.push(id),
            "start" => {
                let pid = pid.parse().unwrap();
                starts.entry(id).or_default().push(Start { at, pid, epoch });
            }
            _ => _ = ends.insert((id, epoch), at),
        }
    }
    let connection = shell(&folder);
    let mut state = connection
        .prepare("SELECT state FROM task WHERE id = ?1")
        .unwrap();
    for id in &accepted {
        let state: i64 = state
            .query_row([id], |row| row.get(0))
            .expect("it was accepted");
        assert_eq!(state, 6, "{id} has not returned");
        let is_ended = starts[id]
            .iter()
            .any(|it| ends.contains_key(&(*id, it.epoch)));
        assert!(is_ended, "{id} has never run to its end");
    }
    let (mut twice, mut waits) = (0, Vec::new());
    for (id, starts) in &mut starts {
        starts.sort_by_key(|it| it.at);
        twice += usize::from(starts.len() > 1);
        for pair in starts.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            let dead = died.get(&first.pid).copied().unwrap_or(i64::MAX);
            let over = ends.get(&(*id, first.epoch)).copied();
            let overlaps = second.at < dead && over.is_none_or(|over| second.at < over);
            assert!(!overlaps, "{id} ran twice at once");
            if dead != i64::MAX {
                waits.push((second.at - dead) / 1000);
            }
        }
    }
    waits.sort_unstable();
    assert_eq!(integrity(&connection).unwrap(), "ok");
    say(&format!(
        "{kills} kills, {sync}: {} accepted, none lost; {twice} run again; from a death to the next start p50 {:?} ms, max \
         {:?} ms",
        accepted.len(),
        waits.get(waits.len() / 2),
        waits.last(),
    ));
    assert!(accepted.len() > kills, "too few to tell");
}

#[test]
fn nothing_is_lost_in_some_kills() {
    kill_often("never", 60);
}

#[test]
#[ignore = "takes minutes: make faults"]
fn nothing_is_lost_in_a_thousand_kills() {
    kill_often("never", 700);
    kill_often("commit", 300);
}

fn poison(processes: usize, tasks: usize, poison: usize) {
    let folder = Folder::new();
    {
        let (journal, _) = support::watching(&folder);
        for number in 0..tasks {
            // As far from each other as can be, so that no two are in flight in one process.
            let is_poison = number % (tasks / poison) == tasks / poison / 2;
            let function = if is_poison { "poison" } else { "send" };
            let task = NewTask {
                id: format!("{function}-{number}"),
                function: function.to_owned(),
                rank: i64::try_from(number).unwrap(),
                ..task()
            };
            journal.submit(task).unwrap();
        }
        journal.close();
    }
    let spawn = || Actor::start("poison never", folder.path());
    let mut actors: Vec<Actor> = (0..processes).map(|_| spawn()).collect();
    let mut deaths = 0;
    let began = Instant::now();
    while number(&folder, "SELECT count(*) FROM task WHERE state < 6") > 0 {
        assert!(began.elapsed() < LONG * 4, "some tasks never end");
        for actor in &mut actors {
            if actor.has_ended() {
                deaths += 1;
                *actor = spawn();
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    // One may have died since it was looked at, and its task been taken over by another.
    deaths += actors
        .into_iter()
        .map(Actor::was_killed)
        .filter(|it| *it)
        .count();
    assert_eq!(deaths, poison * 3);
    let count = |what: &str| {
        let sql = format!("SELECT count(*) FROM task WHERE {what}");
        usize::try_from(number(&folder, &sql)).unwrap()
    };
    assert_eq!(count("state = 9 AND id LIKE 'poison%'"), poison);
    assert_eq!(count("state = 6 AND id LIKE 'send%'"), tasks - poison);
}

#[test]
fn a_poison_task_costs_three_deaths_and_no_innocent_task() {
    poison(1, 60, 3);
    poison(3, 120, 3);
}

#[test]
#[ignore = "takes minutes: make faults"]
fn many_poison_tasks_cost_three_deaths_each() {
    poison(1, 240, 6);
    poison(3, 3000, 6);
}
