//! Every system call of the journal fails, at each of its times; and the process is killed there.
#![cfg(all(target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/app.rs"]
mod app;
#[path = "support/process.rs"]
mod process;
mod support;
#[path = "support/system.rs"]
mod system;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use app::{Running, done};
use flask_delay_journal::{
    Accepted, Before, Change, ErrorKind, Follows, Found, How, Limits, NewPermit, NewTask, Permit,
    Settings, State,
};
use support::{
    Folder, LONG, again, careful, claiming, finished, integrity, mine, row, say, shell, task,
    until, watching, with,
};
use system::{Call, KILL, arm, arm_all, disarm};

/// System calls are the whole process's: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

fn start(folder: &Path) -> Result<Running, flask_delay_journal::Error> {
    let work = Arc::new(|_: &_| done());
    Running::start(careful(&folder.join("journal.db")), &["send"], 2, work)
}

/// Before the first replacement: the journal's own one comes first.
fn prepare() {
    let folder = Folder::new();
    start(folder.path()).unwrap().close();
    system::intercept();
}

fn is_whole(folder: &Folder) {
    assert_eq!(integrity(&shell(folder)).unwrap(), "ok");
}

/// What was accepted ends, and what was refused is not there, whichever call fails.
fn fail_once(call: Call, at: usize, how: i32) -> bool {
    let folder = Folder::new();
    if std::env::var_os("ONLY").is_some() {
        say(&format!("{call:?} {at} {how}"));
    }
    arm(call, at, how);
    let running = match start(folder.path()) {
        Ok(running) => running,
        // A journal that cannot be opened says so; the next time it can.
        Err(_) => start(folder.path()).unwrap(),
    };
    let journal = running.journal();
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let task = task();
                    let id = task.id.clone();
                    let accepted = running.submit(task);
                    outcomes.lock().unwrap().push((id, accepted));
                }
            });
        }
    });
    let has_failed = disarm();
    let last = task();
    let id = last.id.clone();
    outcomes.lock().unwrap().push((id, running.submit(last)));
    for (id, accepted) in outcomes.into_inner().unwrap() {
        let began = Instant::now();
        loop {
            let found = journal.get(&id).unwrap();
            match (&accepted, found) {
                (Ok(_), Found::Row(row)) if row.state == State::Finished => break,
                (Err(_), Found::Unknown) => break,
                (Ok(_), Found::Row(_)) => {
                    assert!(
                        began.elapsed() < LONG,
                        "{call:?} {at} {how}: {id} does not end"
                    );
                    thread::sleep(Duration::from_millis(5));
                }
                (accepted, found) => panic!("{call:?} {at} {how}: {accepted:?}, and {found:?}"),
            }
        }
    }
    running.close();
    is_whole(&folder);
    has_failed
}

/// Fails the calls at these times, as long as there are so many.
fn sweep(call: Call, how: i32, times: impl Iterator<Item = usize>) -> usize {
    times.take_while(|&at| fail_once(call, at, how)).count()
}

#[test]
fn a_full_disk_refuses_submits_and_keeps_ends() {
    let _one = ONE.lock();
    prepare();
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 2);
    let (running, waits) = (task(), task());
    let claim = mine(journal.submit(running.clone()).unwrap());
    let other = mine(journal.submit(task()).unwrap());
    assert_eq!(journal.submit(waits.clone()).unwrap(), Accepted::Waiting);
    let reserve = folder.path().join("journal/reserve");
    assert_eq!(reserve.metadata().unwrap().len(), 256 * 1024);
    arm_all(Call::Write, libc::ENOSPC);
    let late = task();
    let error = journal.submit(late.clone()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    assert!(error.text.contains("make room"), "{error}");
    // The host has its outcome, and learns that the file has not.
    let error = journal.change(claim, Change::End(finished())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    assert!(!reserve.exists());
    notes.reported("are not written, and tried again");
    assert_eq!(row(&journal, &running.id).state, State::Running);
    disarm();
    // With room again the end is written, and work goes on.
    until(|| row(&journal, &running.id).state == State::Finished);
    assert_eq!(notes.claimed().id, waits.id);
    assert_eq!(journal.get(&late.id).unwrap(), Found::Unknown);
    journal.change(other, Change::End(finished())).unwrap();
    journal.close();
    // The next start keeps room again.
    claiming(&folder, 1).0.close();
    assert!(reserve.exists());
    is_whole(&folder);
}

#[test]
fn a_full_disk_keeps_what_gives_a_permit_back() {
    let _one = ONE.lock();
    prepare();
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let ask = || {
        let permit = Permit::new();
        let (sender, said) = channel();
        let new = NewPermit {
            permit,
            function: "fetch".to_owned(),
            rank: 0,
            limits: Limits {
                key: "key".to_owned(),
                limit: Some(1),
                rate: None,
            },
        };
        journal.enter(new, Box::new(move |granted| _ = sender.send(granted)));
        (permit, said)
    };
    let (first, granted) = ask();
    assert_eq!(granted.recv().unwrap(), Ok(true));
    let (second, waits) = ask();
    journal.resume(Some("none")).unwrap();
    arm_all(Call::Write, libc::ENOSPC);
    journal.leave(first);
    notes.reported("the places of 1 plain tasks that have ended are not given back");
    // One that asks now is refused, and holds nothing up.
    let (third, refused) = ask();
    assert_eq!(refused.recv().unwrap().unwrap_err().kind, ErrorKind::Full);
    journal.leave(third);
    assert!(waits.try_recv().is_err());
    disarm();
    assert_eq!(waits.recv().unwrap(), Ok(true));
    journal.leave(second);
    let (last, granted) = ask();
    assert_eq!(granted.recv().unwrap(), Ok(true));
    journal.leave(last);
    assert!(!notes.reports().iter().any(|it| it.contains("run again")));
    journal.close();
    is_whole(&folder);
}

#[test]
fn a_disk_that_does_not_sync_answers_for_nothing() {
    let _one = ONE.lock();
    prepare();
    let folder = Folder::new();
    let timeout = Duration::from_secs(3);
    let settings = Settings {
        timeout,
        ..careful(&folder.database())
    };
    let (journal, notes) = with(settings, 2);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    journal.submit(task()).unwrap();

    // For a moment: what was committed meanwhile is copied, and answered for then.
    arm_all(Call::Sync, libc::EIO);
    let task_of_thread = task();
    let (submitting, id) = (journal.clone(), task_of_thread.id.clone());
    let thread = thread::spawn(move || submitting.submit(task_of_thread));
    notes.reported("cannot be written to the disk");
    until(|| matches!(journal.get(&id).unwrap(), Found::Row(_)));
    assert!(!thread.is_finished());
    disarm();
    assert!(matches!(thread.join().unwrap(), Ok(Accepted::Mine(_))));

    // The log begins anew after the copy, and SQLite syncs that itself.
    journal.submit(task()).unwrap();
    // For good: what is refused is not there.
    let (web, told) = watching(&folder);
    arm_all(Call::Sync, libc::EIO);
    let refused = NewTask {
        arguments: "x".repeat(3_000),
        ..task()
    };
    let follower = NewTask {
        follows: Some(Follows {
            tasks: vec![Before::Id(refused.id.clone())],
            how: How::Success,
            countdown: None,
        }),
        ..task()
    };
    let (submitting, late) = (journal.clone(), refused.clone());
    let began = Instant::now();
    let thread = thread::spawn(move || submitting.submit(late));
    // Others see it meanwhile, and what they have follow it is told.
    until(|| matches!(web.watch(&refused.id).unwrap(), Found::Row(_)));
    assert_eq!(web.submit(follower.clone()).unwrap(), Accepted::Waiting);
    let error = thread.join().unwrap().unwrap_err();
    assert!(began.elapsed() >= timeout, "{error}");
    assert_eq!(error.kind, ErrorKind::Io);
    disarm();
    until(|| journal.get(&refused.id).unwrap() == Found::Unknown);
    let ended = told.ended();
    assert_eq!((ended.id, ended.state), (follower.id, State::Failed));
    assert!(ended.error.unwrap().contains("the disk failed"));
    // Nothing of it is left, which the next one would get with its place.
    let file = shell(&folder);
    for table in ["body", "dependency", "waiter"] {
        let sql =
            format!("SELECT count(*) FROM {table} WHERE task NOT IN (SELECT sequence FROM task)");
        let left: i64 = file.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let next = NewTask {
        id: support::id(),
        ..refused
    };
    until(|| journal.submit(next.clone()).is_ok());
    web.close();
    assert_eq!(notes.left(), (0, 0));
    journal.close();
    is_whole(&folder);
}

/// Another attempt is never in the file without the checkpoint and the step before it, whichever call
/// fails; whether one has.
fn keep_once(call: Call, at: usize, how: i32) -> bool {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    arm(call, at, how);
    for value in 0..3 {
        journal.checkpoint(claim, 0, value.to_string());
        // An error or not: it is written before what follows.
        _ = journal.step(claim, value.to_string(), value.to_string());
    }
    journal.checkpoint(claim, 0, "3".to_owned());
    _ = journal.change(claim, again());
    let has_failed = disarm();
    let mut kept = notes.claimed().kept;
    kept.steps.sort_unstable();
    let step = |number: u32| (number.to_string(), number.to_string());
    assert_eq!(
        (kept.checkpoints, kept.steps),
        (vec![(0, "3".to_owned())], (0..3).map(step).collect()),
        "{call:?} {at} {how}"
    );
    journal.close();
    is_whole(&folder);
    has_failed
}

#[test]
fn calls_fail_while_checkpoints_and_steps_are_written() {
    let _one = ONE.lock();
    prepare();
    for (call, how) in [
        (Call::Write, libc::ENOSPC),
        (Call::Write, libc::EIO),
        (Call::Lock, libc::EIO),
        (Call::Turn, libc::EINTR),
    ] {
        let times = (1..).step_by(2);
        let count = times.take_while(|&at| keep_once(call, at, how)).count();
        assert!(count > 1, "{call:?} with {how} has failed {count} times");
    }
}

const ERRORS: [i32; 4] = [libc::ENOSPC, libc::EIO, libc::EINTR, libc::ENOLCK];

/// A sample of times; the first ones are those of the opening.
fn sample() -> impl Iterator<Item = usize> {
    (0..).map(|step| 1 + step * (step + 3) / 2)
}

#[test]
fn some_calls_fail() {
    let _one = ONE.lock();
    prepare();
    let mut count = 0;
    for (call, how) in [
        (Call::Write, libc::ENOSPC),
        (Call::Write, libc::EIO),
        (Call::Sync, libc::EIO),
        (Call::Lock, libc::EIO),
        (Call::Lock, libc::ENOLCK),
        (Call::Turn, libc::EINTR),
        (Call::Map, libc::EIO),
        (Call::Stat, libc::EIO),
        (Call::Open, libc::EIO),
        (Call::Unlink, libc::EIO),
        (Call::Fifo, libc::EIO),
    ] {
        count += sweep(call, how, sample().step_by(3));
    }
    assert!(count > 25, "only {count} calls have failed");
}

#[test]
#[ignore = "takes minutes: make faults"]
fn every_call_fails() {
    let _one = ONE.lock();
    prepare();
    let only = std::env::var("ONLY").ok();
    for call in Call::ALL {
        if only
            .as_ref()
            .is_some_and(|only| *only != format!("{call:?}"))
        {
            continue;
        }
        for how in ERRORS {
            let count = sweep(call, how, 1..);
            say(&format!("{call:?} with {how}: {count} times"));
        }
    }
}

/// Notes in a file what this process was told, line by line.
fn log(folder: &Path, word: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("oracle"))
        .unwrap();
    file.write_all(format!("{word}\n").as_bytes()).unwrap();
}

/// A child process that is killed in a system call.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = process::role();
    let words: Vec<usize> = role.split(' ').map(|word| word.parse().unwrap()).collect();
    prepare();
    arm(Call::ALL[words[0]], words[1], KILL);
    let running = start(&folder).unwrap();
    for _ in 0..6 {
        let task = task();
        let id = task.id.clone();
        running.submit(task).unwrap();
        log(&folder, &id);
    }
    let child = process::fork(|| ());
    assert!(process::wait_for(child));
    let task = task();
    let id = task.id.clone();
    running.submit(task).unwrap();
    log(&folder, &id);
    running.close();
}

/// What was accepted before a kill ends in the next process; whether there was a kill.
fn kill_once(call: Call, at: usize) -> bool {
    let folder = Folder::new();
    let actor = process::Actor::start(&format!("{} {at}", call as usize), folder.path());
    let was_killed = actor.was_killed();
    let running = start(folder.path()).unwrap();
    let told = std::fs::read_to_string(folder.path().join("oracle")).unwrap_or_default();
    let began = Instant::now();
    for id in told.lines() {
        loop {
            match running.journal().get(id).unwrap() {
                Found::Row(row) if row.state == State::Finished => break,
                Found::Row(_) => {
                    assert!(began.elapsed() < LONG, "{call:?} {at}: {id} does not end");
                    thread::sleep(Duration::from_millis(5));
                }
                found => panic!("{call:?} {at}: {id} was accepted, and is {found:?}"),
            }
        }
    }
    running.close();
    is_whole(&folder);
    was_killed
}

fn kill_at(call: Call, times: impl Iterator<Item = usize>) -> usize {
    times.take_while(|&at| kill_once(call, at)).count()
}

#[test]
fn killed_in_some_calls() {
    let _one = ONE.lock();
    let mut count = 0;
    for call in [Call::Write, Call::Sync, Call::Turn, Call::Open] {
        count += kill_at(call, sample().step_by(3));
    }
    assert!(count > 8, "only {count} calls have killed");
}

#[test]
#[ignore = "takes minutes: make faults"]
fn killed_in_every_call() {
    let _one = ONE.lock();
    for call in Call::ALL {
        let count = kill_at(call, 1..);
        say(&format!("{call:?}: {count} kills"));
    }
}
