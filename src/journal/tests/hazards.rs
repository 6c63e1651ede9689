//! What loses commits of SQLite in silence when it is used in the obvious way: forks with an open
//! file, orphans of a fork, and code in the process that reads the files and closes them.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flask_delay_journal::{
    Accepted, Journal, NewTask, Settings, State, SyncLevel, after_fork_in_parent, before_fork,
};
use process::{Actor, fork, role, wait_for, wait_for_end};
use rusqlite::Connection;
use support::{Folder, careful, claiming, row, say, settings, shell, task, until, watching, with};

/// What the child processes of these tests do.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    match role.as_str() {
        "visit" => visit(&folder),
        "family" => family(&folder),
        other => panic!("no role {other}"),
    }
}

/// A process with a stock SQLite that reads the file and closes it: the last one to close removes the
/// log, if it finds no lock.
fn visit(folder: &Path) {
    let connection = Connection::open(folder.join("journal.db")).unwrap();
    let count: i64 = connection
        .query_row("SELECT count(*) FROM task", [], |row| row.get(0))
        .unwrap();
    connection.close().unwrap();
    say(&format!("sees {count} tasks"));
    wait_for_end();
}

#[track_caller]
fn visitor_sees(folder: &Folder, count: usize) {
    let mut visitor = Actor::start("visit", folder.path());
    let line = visitor.hear("sees");
    visitor.end();
    assert!(line.contains(&format!("sees {count} tasks")), "{line}");
}

/// In a child: waits until the test says so, or has failed and removed the folder.
fn until_told(folder: &Path, word: &str) {
    while folder.exists() && !folder.join(word).exists() {
        thread::yield_now();
    }
}

/// A process that uses the journal, forks a child that uses it too, and ends before it.
fn family(folder: &Path) {
    let (journal, _) = with(careful(&folder.join("journal.db")), 0);
    for _ in 0..3 {
        journal.submit(task()).unwrap();
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    fork(|| {
        let parent = std::os::unix::process::parent_id();
        submit(&journal, 3);
        std::fs::write(folder.join("used"), "").unwrap();
        // Until the parent has ended, and others have looked at the file.
        reader.read_exact(&mut [0]).unwrap();
        while std::os::unix::process::parent_id() == parent {
            thread::yield_now();
        }
        until_told(folder, "visited");
        submit(&journal, 3);
        std::fs::write(folder.join("submitted"), "").unwrap();
        until_told(folder, "counted");
    });
    submit(&journal, 3);
    journal.close();
    (&writer).write_all(b"x").unwrap();
    until(|| folder.join("used").exists());
    say("the parent ends");
    wait_for_end();
}

fn submit(journal: &Journal, count: usize) {
    for _ in 0..count {
        assert_eq!(journal.submit(task()).unwrap(), Accepted::Waiting);
    }
}

#[test]
fn an_orphan_loses_nothing() {
    let folder = Folder::new();
    let mut parent = Actor::start("family", folder.path());
    parent.hear("the parent ends");
    parent.end();
    // The one that has opened the file first is gone; what was its is the orphan's alone.
    visitor_sees(&folder, 9);
    std::fs::write(folder.path().join("visited"), "").unwrap();
    until(|| folder.path().join("submitted").exists());
    visitor_sees(&folder, 12);
    std::fs::write(folder.path().join("counted"), "").unwrap();
    let (journal, _) = watching(&folder);
    assert_eq!(journal.stats().unwrap().ready, 12);
    journal.close();
}

/// The file is opened anew after a fork, and the number that SQLite gives to what others have changed
/// begins anew with it.
#[test]
fn an_end_during_a_fork_is_heard() {
    let folder = Folder::new();
    let (web, told) = watching(&folder);
    let new = task();
    assert_eq!(web.submit(new.clone()).unwrap(), Accepted::Waiting);
    before_fork();
    shell(&folder)
        .execute_batch(
            "BEGIN; UPDATE task SET state = 6, ended_at = 0; \
             INSERT INTO waiter (task, slot, ended) SELECT sequence, submitter, 1 FROM task; COMMIT",
        )
        .unwrap();
    after_fork_in_parent();
    assert_eq!(told.ended().id, new.id);
    web.close();
}

/// As while the process is stopped.
#[test]
fn a_task_that_is_forgotten_during_a_fork_is_not_waited_for() {
    let folder = Folder::new();
    let (web, told) = watching(&folder);
    let (kept, gone) = (task(), task());
    for new in [&kept, &gone] {
        assert_eq!(web.submit(new.clone()).unwrap(), Accepted::Waiting);
    }
    before_fork();
    let other = shell(&folder);
    let sql = "DELETE FROM task WHERE id = ?1";
    other.execute(sql, [&gone.id]).unwrap();
    after_fork_in_parent();
    let ended = told.ended();
    assert_eq!((ended.id, ended.state), (gone.id, State::Failed));
    assert!(ended.error.unwrap().contains("was forgotten before"));
    assert_eq!(told.left().1, 0);
    web.close();
}

#[test]
fn a_stray_reader_in_the_process_loses_nothing() {
    let folder = Folder::new();
    let (journal, _) = with(careful(&folder.database()), 0);
    submit(&journal, 2);
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", folder.database().display());
        std::fs::read(&path).unwrap();
        std::fs::copy(&path, folder.path().join("copy")).unwrap();
    }
    visitor_sees(&folder, 2);
    submit(&journal, 2);
    visitor_sees(&folder, 4);
    journal.close();
    visitor_sees(&folder, 4);
}

#[test]
fn a_stray_connection_in_the_process_loses_nothing() {
    let folder = Folder::new();
    let (journal, _) = with(careful(&folder.database()), 0);
    submit(&journal, 2);
    visit_here(&folder);
    submit(&journal, 2);
    visit_here(&folder);
    visitor_sees(&folder, 4);
    journal.close();
    visitor_sees(&folder, 4);
}

/// Somebody in this process looks with a connection of their own.
fn visit_here(folder: &Folder) {
    let connection = Connection::open(folder.database()).unwrap();
    let mut statement = connection.prepare("SELECT id FROM task").unwrap();
    let ids = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    assert!(ids.count() > 0);
}

#[test]
fn forks_under_load_lose_nothing() {
    let folder = Folder::new();
    let (journal, _) = watching(&folder);
    let is_over = AtomicBool::new(false);
    let submitted: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        submit(&journal, 1);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let children: Vec<_> = (0..20)
            .map(|_| {
                fork(|| {
                    submit(&journal, 2);
                    journal.close();
                })
            })
            .collect();
        let failed: Vec<_> = children.into_iter().filter(|it| !wait_for(*it)).collect();
        // Before anything fails: the scope waits for the threads.
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(failed, []);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    visitor_sees(&folder, submitted + 40);
    journal.close();
}

#[test]
fn a_forked_child_does_not_keep_its_parent_alive() {
    let folder = Folder::new();
    let (worker, notes) = claiming(&folder, 1);
    worker.stop_claiming();
    let late = NewTask { rank: 1, ..task() };
    worker.submit(late.clone()).unwrap();
    // A process that claims, forks, and is killed; its child lives on.
    let middle = fork(|| {
        let (journal, of_middle) = claiming(&folder, 1);
        assert_eq!(of_middle.claimed().id, late.id);
        fork(|| {
            _ = journal.get(&late.id);
            until_told(folder.path(), "counted");
        });
        process::die();
    });
    assert!(!wait_for(middle));
    let (next, of_next) = claiming(&folder, 1);
    assert_eq!(of_next.claimed().id, late.id);
    assert_eq!(row(&next, &late.id).state, State::Running);
    std::fs::write(folder.path().join("counted"), "").unwrap();
    assert_eq!(notes.left(), (0, 0));
    next.close();
    worker.close();
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_has_no_file_of_the_journal_open() {
    let folder = Folder::new();
    let (journal, _) = with(
        Settings {
            sync: SyncLevel::Never,
            ..settings(&folder.database())
        },
        1,
    );
    let (other, _) = claiming(&folder, 0);
    journal.start().unwrap();
    // What another process has no worker for: its wake-up file is open then.
    submit(&journal, 2);
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        targets
            .filter(|it| it.starts_with(folder.path()))
            .collect::<Vec<_>>()
    };
    assert!(open().len() >= 6, "{:?}", open());
    // But the log, which a thread may have in its hands for a sync: no lock is on it.
    let is_known = |path: &std::path::PathBuf| path.ends_with("journal.db-wal");
    let child = fork(|| assert!(open().iter().all(is_known), "{:?}", open()));
    assert!(wait_for(child));
    submit(&journal, 1);
    other.close();
    journal.close();
}
