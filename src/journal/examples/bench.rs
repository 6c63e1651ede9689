//! What the journal costs without Python.
//!
//! `bench [SECONDS] [FOLDER]` prints a line for each measurement.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what it prints is its result, and an error ends it"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_journal::{
    Accepted, Change, Claimed, Command, DeadLetter, Host, Journal, Kept, Limits, NewPermit,
    NewTask, Outcome, Permit, Pool, Row, Settings, SyncLevel,
};

/// Runs tasks on the thread that it is told of them: a host without workers.
#[derive(Default)]
struct Tasks {
    claimed: Mutex<Vec<Claimed>>,
    bell: Condvar,
    ended: AtomicU64,
}

impl Host for Tasks {
    fn capacity(&self) -> [Option<usize>; 3] {
        [Some(8), None, None]
    }

    fn run(&self, tasks: Vec<Claimed>) {
        self.claimed.lock().unwrap().extend(tasks);
        self.bell.notify_all();
    }

    fn ended(&self, _rows: Vec<Row>) {}

    fn stop(&self, _id: &str) {}

    fn command(&self, _command: Command) {}

    fn asked(&self, _at: i64) {}

    fn dead(&self, _letters: Vec<DeadLetter>) {}

    fn report(&self, level: log::Level, text: String) {
        println!("{level}: {text}");
    }
}

fn settings(path: PathBuf, sync: SyncLevel) -> Settings {
    Settings {
        path,
        app: "bench|delay".to_owned(),
        sync,
        keep: Duration::from_secs(5),
        limit: 10_000,
        deaths: 3,
        timeout: Duration::from_secs(30),
        waiting: 0,
        most: 1_000_000,
        code: "0".to_owned(),
    }
}

fn task(number: u64) -> NewTask {
    NewTask {
        id: format!("{number:036}"),
        function: "shop.tasks.send_receipt".to_owned(),
        pool: Pool::Threads,
        arguments: "x".repeat(100),
        options: None,
        rank: number.cast_signed(),
        due: None,
        expires: None,
        unique: None,
        once: None,
        limits: None,
        is_strict: false,
        sync: false,
        follows: None,
    }
}

fn done() -> Change {
    Change::End(Outcome::Finished {
        result: Some("null".to_owned()),
        unkept: None,
    })
}

fn open(folder: &Path, sync: SyncLevel) -> (Journal, Arc<Tasks>) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    let tasks = Arc::new(Tasks::default());
    let journal = Journal::open(settings(folder.join("journal.db"), sync), tasks.clone()).unwrap();
    journal.know(vec!["shop.tasks.send_receipt".to_owned()]);
    journal.start().unwrap();
    (journal, tasks)
}

#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.0.push(began.elapsed().as_secs_f64() * 1e6);
        done
    }

    fn text(&mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.len() - 1;
        let [p50, p99] = [last / 2, last - last / 100].map(|place| self.0[place]);
        format!(
            "p50 {p50:.0} us, p99 {p99:.0} us, max {:.0} us",
            self.0[last]
        )
    }
}

/// One thread submits, runs and ends.
fn alone(folder: &Path, sync: SyncLevel, seconds: f64) {
    let (journal, _) = open(folder, sync);
    let (mut submits, mut changes, mut gets) =
        (Times::default(), Times::default(), Times::default());
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed().as_secs_f64() < seconds {
        number += 1;
        let task = task(number);
        let id = task.id.clone();
        let Accepted::Mine(claim) = submits.measure(|| journal.submit(task).unwrap()) else {
            panic!("a free worker and nothing that waits");
        };
        changes.measure(|| journal.change(claim, done()).unwrap());
        gets.measure(|| journal.get(&id).unwrap());
        // A view has other things to do: the writer thread sleeps meanwhile.
        thread::sleep(Duration::from_micros(200));
    }
    println!("{sync:?}, one thread: submit {}", submits.text());
    println!("{sync:?}, one thread: change {}", changes.text());
    println!("{sync:?}, one thread: get    {}", gets.text());
    journal.close();
}

/// Threads submit as fast as they can, workers end.
fn together(folder: &Path, sync: SyncLevel, submitters: u64, seconds: f64) {
    let (journal, tasks) = open(folder, sync);
    for _ in 0..8 {
        let (journal, tasks) = (journal.clone(), Arc::clone(&tasks));
        thread::spawn(move || {
            loop {
                let mut claimed = tasks.claimed.lock().unwrap();
                let task = loop {
                    match claimed.pop() {
                        Some(task) => break task,
                        None => claimed = tasks.bell.wait(claimed).unwrap(),
                    }
                };
                drop(claimed);
                if journal.change(task.claim, done()).is_err() {
                    return;
                }
                tasks.ended.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let times = Mutex::new(Times::default());
    let began = Instant::now();
    thread::scope(|scope| {
        for submitter in 0..submitters {
            let (journal, tasks, times) = (&journal, &tasks, &times);
            scope.spawn(move || {
                let mut mine = Times::default();
                let mut number = submitter * 1_000_000_000;
                while began.elapsed().as_secs_f64() < seconds {
                    number += 1;
                    let task = task(number);
                    let accepted = mine.measure(|| journal.submit(task.clone()).unwrap());
                    if let Accepted::Mine(claim) = accepted {
                        tasks.run(vec![Claimed {
                            claim,
                            id: task.id,
                            function: task.function,
                            pool: task.pool,
                            arguments: task.arguments,
                            options: None,
                            submitted_at: 0,
                            began: None,
                            tick: None,
                            kept: Kept::default(),
                        }]);
                    }
                }
                times.lock().unwrap().0.extend(mine.0);
            });
        }
    });
    let accepted = times.lock().unwrap().0.len();
    while tasks.ended.load(Ordering::Relaxed) < accepted as u64 {
        thread::sleep(Duration::from_millis(1));
    }
    #[allow(clippy::cast_precision_loss, reason = "a figure to print")]
    let rate = accepted as f64 / began.elapsed().as_secs_f64();
    let text = times.into_inner().unwrap().text();
    println!("{sync:?}, {submitters} threads: {rate:.0} tasks/s to the last end; submit {text}");
    journal.close();
}

/// One thread submits, runs and ends tasks of one key, some with a limit and others without.
fn limited(folder: &Path, seconds: f64) {
    let (journal, _) = open(folder, SyncLevel::Never);
    let minute = 60_000_000;
    let kinds = [
        ("no limit", None, None),
        ("limit   ", Some(8), None),
        ("rate    ", None, Some((1_000_000, minute))),
    ];
    let mut times = kinds.map(|_| (Times::default(), Times::default()));
    let began = Instant::now();
    for number in 0.. {
        if began.elapsed().as_secs_f64() > seconds {
            break;
        }
        // By turns, so that what else the machine does counts for each.
        let place = usize::try_from(number % 3).unwrap();
        let (_, limit, rate) = kinds[place];
        let mut task = task(number);
        if limit.is_some() || rate.is_some() {
            let key = format!("=\"key {place}\"");
            task.limits = Some(Box::new(Limits { key, limit, rate }));
        }
        let (submits, changes) = &mut times[place];
        let Accepted::Mine(claim) = submits.measure(|| journal.submit(task).unwrap()) else {
            panic!("a free worker and nothing that waits");
        };
        changes.measure(|| journal.change(claim, done()).unwrap());
        thread::sleep(Duration::from_micros(200));
    }
    for ((kind, ..), (mut submits, mut changes)) in kinds.into_iter().zip(times) {
        println!(
            "{kind}: submit {}; change {}",
            submits.text(),
            changes.text()
        );
    }
    journal.close();
}

/// Plain tasks with `scope="machine"`: alone in their lane, and after one of another process.
fn permits(folder: &Path, seconds: f64) {
    let (one, _) = open(folder, SyncLevel::Commit);
    let path = folder.join("journal.db");
    let host = Arc::new(Tasks::default());
    let two = Journal::open(settings(path, SyncLevel::Commit), host).unwrap();
    let ask = |journal: &Journal| {
        let permit = Permit::new();
        let (sender, granted) = channel();
        let new = NewPermit {
            permit,
            function: "shop.tasks.send_receipt".to_owned(),
            rank: 0,
            limits: Limits {
                key: "=\"key\"".to_owned(),
                limit: Some(1),
                rate: None,
            },
        };
        journal.enter(
            new,
            Box::new(move |said| _ = sender.send((said, Instant::now()))),
        );
        (permit, granted)
    };
    let (mut alone, mut handed_over) = (Times::default(), Times::default());
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < seconds {
        let first = alone.measure(|| {
            let (permit, granted) = ask(&one);
            granted.recv().unwrap().0.unwrap();
            permit
        });
        let (second, granted) = ask(&two);
        thread::sleep(Duration::from_millis(1));
        let left = Instant::now();
        one.leave(first);
        let (said, at) = granted.recv().unwrap();
        said.unwrap();
        handed_over.0.push((at - left).as_secs_f64() * 1e6);
        two.leave(second);
        thread::sleep(Duration::from_millis(1));
    }
    println!("permit, alone: granted after {}", alone.text());
    println!(
        "permit, given back by another process: granted after {}",
        handed_over.text()
    );
    one.close();
    two.close();
}

/// One thread submits, runs and ends tasks, while another function is paused whose tasks wait, and without that.
fn paused(folder: &Path, count: u64, seconds: f64) {
    let kinds = ["nothing is paused     ", "another one is paused"];
    let journals = [0, 1].map(|place| {
        let journal = open(&folder.join(place.to_string()), SyncLevel::Never).0;
        if place == 1 {
            let other = "shop.tasks.other";
            journal.know(vec![other.to_owned()]);
            journal.pause(Some(other)).unwrap();
            let tasks = (0..count).map(|number| NewTask {
                function: other.to_owned(),
                ..task(u64::MAX - number)
            });
            let submitted = journal.submit_all(tasks.collect()).unwrap();
            assert_eq!(submitted.refused, None);
        }
        journal
    });
    let mut times = kinds.map(|_| (Times::default(), Times::default()));
    let began = Instant::now();
    for number in 0.. {
        if began.elapsed().as_secs_f64() > seconds {
            break;
        }
        // By turns, as above.
        for (journal, (submits, changes)) in journals.iter().zip(&mut times) {
            let Accepted::Mine(claim) = submits.measure(|| journal.submit(task(number)).unwrap())
            else {
                panic!("a free worker and nothing that waits");
            };
            changes.measure(|| journal.change(claim, done()).unwrap());
        }
        thread::sleep(Duration::from_micros(200));
    }
    for (kind, (mut submits, mut changes)) in kinds.into_iter().zip(times) {
        println!(
            "{kind}: submit {}; change {}",
            submits.text(),
            changes.text()
        );
    }
    for journal in journals {
        journal.close();
    }
}

/// Very many tasks wait for one limit, or for workers; one after another ends.
fn lane(folder: &Path, count: u64, is_limited: bool) {
    let (journal, tasks) = open(folder, SyncLevel::Never);
    journal.pause(None).unwrap();
    thread::scope(|scope| {
        for submitter in 0..16 {
            let journal = &journal;
            scope.spawn(move || {
                for number in (submitter..count).step_by(16) {
                    let mut task = task(number);
                    if is_limited {
                        task.limits = Some(Box::new(Limits {
                            key: "=\"lane\"".to_owned(),
                            limit: Some(1),
                            rate: None,
                        }));
                    }
                    journal.submit(task).unwrap();
                }
            });
        }
    });
    journal.resume(None).unwrap();
    let mut times = Times::default();
    for _ in 0..count {
        let claimed = {
            let mut claimed = tasks.claimed.lock().unwrap();
            while claimed.is_empty() {
                claimed = tasks.bell.wait(claimed).unwrap();
            }
            claimed.remove(0)
        };
        times.measure(|| journal.change(claimed.claim, done()).unwrap());
    }
    let kind = if is_limited {
        "a limit of 1"
    } else {
        "workers"
    };
    println!("{count} tasks wait for {kind}: change {}", times.text());
    journal.close();
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(2.0, |text| text.parse().unwrap());
    let folder = arguments.next().map_or_else(
        || std::env::temp_dir().join(format!("flask-delay-bench-{}", std::process::id())),
        PathBuf::from,
    );
    for sync in [SyncLevel::Never, SyncLevel::Second, SyncLevel::Commit] {
        alone(&folder, sync, seconds);
    }
    for sync in [SyncLevel::Never, SyncLevel::Commit] {
        for submitters in [1, 4, 16] {
            together(&folder, sync, submitters, seconds);
        }
    }
    limited(&folder, seconds);
    paused(&folder, 10_000, seconds);
    permits(&folder, seconds);
    for is_limited in [false, true] {
        lane(&folder, 10_000, is_limited);
    }
    let _ = std::fs::remove_dir_all(&folder);
}
