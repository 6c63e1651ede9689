//! What goes wrong around the journal: files that are removed, replaced, damaged, made by newer code, or
//! locked by others.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_journal::{
    Accepted, Change, Changed, Error, ErrorKind, Found, Journal, NewTask, Settings, State, check,
};
use process::{Actor, role, wait_for_end};

use support::{
    Folder, Notes, claiming, finished, mine, row, say, settings, shell, task, until, watching, with,
};

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    match role.as_str() {
        "turnstile" => {
            let file = File::open(folder.join("journal/turnstile")).unwrap();
            file.lock().unwrap();
            say("locked");
            wait_for_end();
        }
        "hold" => {
            let (journal, notes) = with(settings(&folder.join("journal.db")), 8);
            journal.know(vec!["send".to_owned()]);
            journal.start().unwrap();
            notes.claimed();
            say("claimed");
            wait_for_end();
        }
        other => panic!("no role {other}"),
    }
}

fn refused(settings: Settings) -> Error {
    Journal::open(settings, Notes::new(0))
        .err()
        .expect("refused")
}

#[test]
fn what_is_not_taken_in_time_is_withdrawn() {
    let folder = Folder::new();
    let timeout = Duration::from_millis(300);
    let (journal, _) = with(
        Settings {
            timeout,
            ..settings(&folder.database())
        },
        0,
    );
    journal.submit(task()).unwrap();
    let mut holder = Actor::start("turnstile", folder.path());
    holder.hear("locked");
    let began = Instant::now();
    let late = task();
    let error = journal.submit(late.clone()).unwrap_err();
    assert!(began.elapsed() >= timeout);
    assert_eq!(error.kind, ErrorKind::Timeout);
    let pid = holder.pid();
    assert!(
        error.text.contains(&format!("process {pid} has the turn")),
        "{error}"
    );
    // Not even an open has to wait without end.
    let error = refused(Settings {
        timeout,
        ..settings(&folder.database())
    });
    assert_eq!(error.kind, ErrorKind::Timeout);
    holder.kill();
    assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
    assert_eq!(journal.get(&late.id).unwrap(), Found::Unknown);
    assert_eq!(journal.stats().unwrap().ready, 2);
    journal.close();
}

#[test]
fn the_process_that_keeps_the_turn_is_named() {
    let folder = Folder::new();
    let (journal, notes) = watching(&folder);
    journal.submit(task()).unwrap();
    let mut holder = Actor::start("turnstile", folder.path());
    holder.hear("locked");
    let waiting = journal.clone();
    let thread = thread::spawn(move || waiting.submit(task()));
    let (level, text) = notes.reported("has kept the turn");
    assert_eq!(level, log::Level::Warn);
    assert!(
        text.contains(&format!("process {} ", holder.pid())),
        "{text}"
    );
    holder.end();
    assert_eq!(thread.join().unwrap().unwrap(), Accepted::Waiting);
    journal.close();
}

#[test]
fn a_shell_that_writes_is_waited_for() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    journal.submit(task()).unwrap();
    let shell = shell(&folder);
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = journal.clone();
    let thread = thread::spawn(move || waiting.submit(task()));
    // It must not be answered meanwhile, so there is nothing to wait for.
    thread::sleep(Duration::from_millis(200));
    assert!(!thread.is_finished());
    shell.execute_batch("COMMIT").unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Accepted::Waiting);
    journal.close();
}

/// As of a process that reads the log after a crash: no other can open the file meanwhile.
#[test]
fn the_opening_waits_for_a_lock_of_sqlite() {
    let folder = Folder::new();
    watching(&folder).0.close();
    let other = shell(&folder);
    other
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    let error = Journal::open(
        Settings {
            timeout: Duration::from_millis(200),
            ..settings(&folder.database())
        },
        Notes::new(0),
    );
    let error = error.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    let path = folder.database();
    let thread = thread::spawn(move || Journal::open(settings(&path), Notes::new(0)));
    // Longer than SQLite itself waits.
    thread::sleep(Duration::from_millis(200));
    assert!(!thread.is_finished());
    drop(other);
    thread.join().unwrap().unwrap().close();
}

#[test]
fn a_removed_file_is_made_anew() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let old = mine(journal.submit(task()).unwrap());
    let watched = task();
    assert_eq!(journal.submit(watched.clone()).unwrap(), Accepted::Waiting);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", folder.database().display())).unwrap();
    }
    notes.reported("was removed or replaced");
    // What was waited for is gone.
    let lost = notes.ended();
    assert_eq!((lost.id, lost.state), (watched.id, State::Failed));
    // The new file begins at the same numbers, and takes no outcome of an old task.
    let next = task();
    let new = mine(journal.submit(next.clone()).unwrap());
    assert_eq!(new.task, old.task);
    assert_eq!(
        journal.change(old, Change::End(finished())).unwrap(),
        Changed::Fenced
    );
    assert_eq!(row(&journal, &next.id).state, State::Running);
    assert_eq!(
        journal.change(new, Change::End(finished())).unwrap(),
        Changed::Done
    );
    let (other, _) = claiming(&folder, 1);
    until(|| journal.stats().unwrap().processes == 2);
    other.close();
    journal.close();
}

#[test]
fn a_file_that_was_put_back_is_used() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let (running, kept) = (task(), task());
    let first = mine(journal.submit(running.clone()).unwrap());
    journal.submit(kept.clone()).unwrap();
    let copy = folder.path().join("copy.db");
    let sql = format!("VACUUM INTO '{}'", copy.display());
    shell(&folder).execute_batch(&sql).unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", folder.database().display())).unwrap();
    }
    std::fs::rename(&copy, folder.database()).unwrap();
    notes.reported("was removed or replaced");
    // To the copy this process has died: what it ran is run again, and its old outcome counts no more.
    assert_eq!(
        journal.change(first, Change::End(finished())).unwrap(),
        Changed::Fenced
    );
    let mut ids = Vec::new();
    for _ in 0..2 {
        let claimed = notes.claimed();
        let changed = journal.change(claimed.claim, Change::End(finished()));
        assert_eq!(changed.unwrap(), Changed::Done);
        ids.push(claimed.id);
    }
    ids.sort();
    assert_eq!(ids, [running.id, kept.id]);
    journal.close();
}

#[test]
fn a_removed_folder_of_locks_is_made_anew() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let (other, of_other) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    notes.reported("somebody has removed this file");
    of_other.reported("somebody has removed this file");
    // No process has taken it over meanwhile.
    assert_eq!(of_other.left(), (0, 0));
    assert_eq!(
        journal.change(claim, Change::End(finished())).unwrap(),
        Changed::Done
    );
    other.close();
    journal.close();
}

#[test]
fn a_damaged_file_is_not_written_to_any_more() {
    let folder = Folder::new();
    let (journal, notes) = watching(&folder);
    for _ in 0..50 {
        let arguments = "x".repeat(900);
        journal
            .submit(NewTask {
                arguments,
                ..task()
            })
            .unwrap();
    }
    journal.close();
    let file = File::options().write(true).open(folder.database()).unwrap();
    let length = file.metadata().unwrap().len();
    let mut page = 4096;
    while page < length {
        file.write_all_at(&[0x55; 4096], page).unwrap();
        page += 4096;
    }
    let error = refused(settings(&folder.database()));
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.text.contains("backup"), "{error}");
    assert_eq!(notes.reports(), Vec::<String>::new());
    assert_eq!(file.metadata().unwrap().len(), length);
}

#[test]
fn a_file_that_is_damaged_in_use_is_left_alone() {
    let folder = Folder::new();
    let (journal, notes) = watching(&folder);
    for _ in 0..50 {
        let arguments = "x".repeat(900);
        journal
            .submit(NewTask {
                arguments,
                ..task()
            })
            .unwrap();
    }
    // The log is copied to the database, so that the damage is met there.
    let shell = shell(&folder);
    shell
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(shell);
    let file = File::options().write(true).open(folder.database()).unwrap();
    let length = file.metadata().unwrap().len();
    let mut page = 4096;
    while page < length {
        file.write_all_at(&[0x55; 4096], page).unwrap();
        page += 4096;
    }
    // A fork opens the file anew, without what is remembered of its pages.
    let child = process::fork(|| ());
    assert!(process::wait_for(child));
    let error = journal.submit(task()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    notes.reported("backup");
    assert_eq!(journal.get("any").unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(file.metadata().unwrap().len(), length);
    journal.close();
}

#[test]
fn newer_code_has_the_last_word() {
    let folder = Folder::new();
    let (journal, notes) = claiming(&folder, 1);
    let claim = mine(journal.submit(task()).unwrap());
    // A newer layout that has the columns of this one is used.
    let shell = shell(&folder);
    shell
        .execute_batch("ALTER TABLE task ADD COLUMN later TEXT; PRAGMA user_version = 2")
        .unwrap();
    let (other, _) = watching(&folder);
    other.submit(task()).unwrap();
    other.close();
    shell
        .execute_batch("UPDATE meta SET value = 2 WHERE key = 'oldest'")
        .unwrap();
    notes.reported("newer code");
    assert_eq!(journal.submit(task()).unwrap_err().kind, ErrorKind::Newer);
    assert_eq!(refused(settings(&folder.database())).kind, ErrorKind::Newer);
    // What runs still ends, and nothing more is claimed.
    assert_eq!(
        journal.change(claim, Change::End(finished())).unwrap(),
        Changed::Done
    );
    assert_eq!(notes.left(), (0, 0));
    journal.close();
}

#[test]
fn tables_of_somebody_else_are_refused() {
    let folder = Folder::new();
    watching(&folder).0.close();
    let shell = shell(&folder);
    for sql in [
        "CREATE TRIGGER more AFTER INSERT ON task BEGIN DELETE FROM task; END",
        "DROP TRIGGER more; CREATE VIEW mine AS SELECT * FROM task",
        "DROP VIEW mine; ALTER TABLE task ADD COLUMN mine TEXT",
    ] {
        shell.execute_batch(sql).unwrap();
        let error = refused(settings(&folder.database()));
        assert_eq!(error.kind, ErrorKind::Corrupt, "{sql}: {error}");
    }
}

#[test]
fn another_database_is_refused() {
    let folder = Folder::new();
    shell(&folder)
        .execute_batch("CREATE TABLE customer (name TEXT)")
        .unwrap();
    let error = refused(settings(&folder.database()));
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.text.contains("not a journal"), "{error}");
}

#[test]
fn a_process_of_another_machine_is_refused_while_it_lives() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    web.submit(task()).unwrap();
    let mut holder = Actor::start("hold", folder.path());
    holder.hear("claimed");
    shell(&folder)
        .execute_batch("UPDATE process SET boot = 'another'")
        .unwrap();
    assert_eq!(
        refused(settings(&folder.database())).kind,
        ErrorKind::OtherMachine
    );
    holder.kill();
    web.close();
    // A death before this boot is no task's fault.
    let (worker, notes) = claiming(&folder, 1);
    let claimed = notes.claimed();
    assert_eq!(row(&worker, &claimed.id).deaths, 0);
    worker.close();
}

#[test]
fn old_ends_are_pruned_and_their_ids_remembered() {
    let folder = Folder::new();
    let (journal, _) = with(
        Settings {
            keep: Duration::ZERO,
            ..settings(&folder.database())
        },
        1,
    );
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    let task = NewTask {
        arguments: "x".repeat(5000),
        once: Some("key".to_owned()),
        ..task()
    };
    let claim = mine(journal.submit(task.clone()).unwrap());
    journal.change(claim, Change::End(finished())).unwrap();
    until(|| journal.get(&task.id).unwrap() == Found::Gone);
    // The id is not taken again; the key is.
    assert_eq!(journal.submit(task.clone()).unwrap(), Accepted::Taken);
    let next = NewTask {
        id: support::id(),
        ..task
    };
    mine(journal.submit(next).unwrap());
    journal.close();
    let count = |sql: &str| {
        shell(&folder)
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM task"), 1);
    assert_eq!(count("SELECT count(*) FROM body"), 1);
}

#[test]
fn no_more_ends_are_kept_than_may() {
    let folder = Folder::new();
    let (journal, _) = with(
        Settings {
            limit: 3,
            ..settings(&folder.database())
        },
        1,
    );
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    let mut ids = Vec::new();
    for _ in 0..10 {
        let task = task();
        ids.push(task.id.clone());
        let claim = mine(journal.submit(task).unwrap());
        journal.change(claim, Change::End(finished())).unwrap();
    }
    until(|| journal.get(&ids[6]).unwrap() == Found::Gone);
    assert_eq!(row(&journal, &ids[7]).state, State::Finished);
    journal.close();
}

#[test]
fn the_file_gives_back_what_a_burst_has_taken() {
    let folder = Folder::new();
    let (journal, _) = with(
        Settings {
            keep: Duration::ZERO,
            ..settings(&folder.database())
        },
        0,
    );
    let journal = Arc::new(journal);
    for _ in 0..400 {
        let arguments = "x".repeat(12_000);
        journal
            .submit(NewTask {
                arguments,
                ..task()
            })
            .unwrap();
    }
    let most = journal.stats().unwrap().bytes;
    let shell = shell(&folder);
    shell
        .execute_batch("UPDATE task SET state = 6, ended_at = 1")
        .unwrap();
    journal.start().unwrap();
    until(|| {
        let (pages, free): (i64, i64) = shell
            .query_row(
                "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        pages < 500 && free < 300
    });
    assert!(most > 4_000_000, "{most}");
    journal.close();
}

#[test]
fn a_place_that_will_not_do_is_refused() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/journal.db");
    assert_eq!(refused(settings(&path)).kind, ErrorKind::Folder);
    assert!(check(&path).iter().any(|(is_well, _)| !is_well));
    assert!(
        check(&folder.database())
            .iter()
            .all(|(is_well, _)| *is_well)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_in_memory_is_warned_of() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    let path = memory.join(format!("flask-delay-{}", std::process::id()));
    let (journal, notes) = with(settings(&path.join("journal.db")), 0);
    assert_eq!(notes.reported("in memory").0, log::Level::Warn);
    journal.close();
    std::fs::remove_dir_all(path).unwrap();
}
