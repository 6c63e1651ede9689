//! Code of several layouts on one file. Within the crate, whose layout is the first of them: the others are
//! made up here.

#[path = "../support/process.rs"]
mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::file::layout::{Layout, Migration};
use crate::file::schema;
use crate::support::{
    Folder, Notes, claiming, finished, integrity, mine, row, say, settings, shell, task, until,
    watching,
};
use crate::{Change, Error, ErrorKind, Journal, NewTask, State, rescue};
use process::{Actor, role, wait_for_end};

const ADDS: Migration = Migration {
    sql: "ALTER TABLE task ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'; \
          ALTER TABLE step ADD COLUMN PRICE INTEGER; \
          CREATE TABLE shelf (name TEXT PRIMARY KEY, width INTEGER) STRICT; \
          CREATE INDEX coloured ON task (colour) WHERE colour <> 'red'",
    only_adds: true,
};
const BREAKS: Migration = Migration {
    sql: "INSERT INTO shelf (name, width) VALUES ('first', 1); ALTER TABLE shelf RENAME COLUMN width TO length",
    only_adds: false,
};
const FAILS: Migration = Migration {
    sql: "CREATE TABLE more (name TEXT); INSERT INTO no_such_table VALUES (1)",
    only_adds: true,
};

/// As today's code, which adds something; which changes that; which adds something again.
static TWO: Layout = Layout {
    first: schema::LAYOUT.first,
    migrations: &[ADDS],
};
static THREE: Layout = Layout {
    first: schema::LAYOUT.first,
    migrations: &[ADDS, BREAKS],
};
static FOUR: Layout = Layout {
    first: schema::LAYOUT.first,
    migrations: &[
        ADDS,
        BREAKS,
        Migration {
            sql: "ALTER TABLE shelf ADD COLUMN depth INTEGER NOT NULL DEFAULT 7",
            only_adds: true,
        },
    ],
};
static BROKEN: Layout = Layout {
    first: schema::LAYOUT.first,
    migrations: &[FAILS],
};

fn opened(layout: &'static Layout, folder: &Folder) -> Result<(Journal, Arc<Notes>), Error> {
    let notes = Notes::new(1);
    let journal = Journal::open_as(layout, settings(&folder.database()), notes.clone())?;
    Ok((journal, notes))
}

/// Code of a layout that claims tasks of "send".
fn code(layout: &'static Layout, folder: &Folder) -> (Journal, Arc<Notes>) {
    let (journal, notes) = opened(layout, folder).unwrap();
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    (journal, notes)
}

fn refused(layout: &'static Layout, folder: &Folder) -> Error {
    match opened(layout, folder) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The layout of a file, and the oldest code that may use it.
fn versions(connection: &Connection) -> (i64, i64) {
    let oldest = "SELECT value FROM meta WHERE key = 'oldest'";
    (
        number(connection, "PRAGMA user_version"),
        number(connection, oldest),
    )
}

fn texts(connection: &Connection) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY sql";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Runs the next task that a process is given, to its end.
fn run_one(journal: &Journal, notes: &Notes) -> String {
    let claimed = notes.claimed();
    journal
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    claimed.id
}

/// Today's code, as a process.
#[test]
#[ignore = "run by other tests"]
fn actor() {
    let (role, folder) = role();
    let settings = settings(&folder.join("journal.db"));
    let notes = Notes::new(1);
    let journal = Journal::open(settings, notes.clone()).unwrap();
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    say("started");
    let claimed = notes.claimed();
    say("claimed");
    wait_for_end();
    if role == "end" {
        journal
            .change(claimed.claim, Change::End(finished()))
            .unwrap();
        // And what was submitted since.
        run_one(&journal, &notes);
        journal.submit(task()).unwrap();
    }
    journal.close();
}

fn actor_of(role: &str, folder: &Folder) -> Actor {
    let mut actor = Actor::start_as("file::migrate::tests::actor", role, folder.path());
    actor.hear("claimed");
    actor
}

#[test]
fn numbers_of_layouts() {
    let versions = [&schema::LAYOUT, &TWO, &THREE, &FOUR].map(|it| (it.version(), it.oldest()));
    assert_eq!(versions, [(1, 1), (2, 1), (3, 3), (4, 3)]);
}

#[test]
fn an_old_file_gets_what_newer_code_has() {
    for layout in [&TWO, &THREE, &FOUR] {
        let (folder, fresh) = (Folder::new(), Folder::new());
        let (old, _) = watching(&folder);
        let waiting = task();
        old.submit(waiting.clone()).unwrap();
        old.close();
        let (new, notes) = code(layout, &folder);
        assert_eq!(run_one(&new, &notes), waiting.id);
        opened(layout, &fresh).unwrap().0.close();
        let (file, fresh) = (shell(&folder), shell(&fresh));
        assert_eq!(versions(&file), (layout.version(), layout.oldest()));
        assert_eq!(versions(&fresh), versions(&file));
        assert_eq!(texts(&fresh), texts(&file));
        assert_eq!(integrity(&file).unwrap(), "ok");
        assert_eq!(
            number(&file, "SELECT count(*) FROM task WHERE colour = 'red'"),
            1
        );
        // A copy is left where older code cannot go on.
        let copy = folder.path().join("journal.db.v1");
        assert_eq!(copy.exists(), layout.oldest() > 1);
        new.close();
    }
}

#[test]
fn old_code_goes_on_beside_newer_code_that_adds() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let first = task();
    web.submit(first.clone()).unwrap();
    let old = actor_of("end", &folder);
    // It runs a task meanwhile.
    let (new, notes) = opened(&TWO, &folder).unwrap();
    assert_eq!(versions(&shell(&folder)), (2, 1));
    let second = task();
    new.submit(second.clone()).unwrap();
    old.end();
    until(|| row(&web, &second.id).state == State::Finished);
    assert_eq!(row(&web, &first.id).state, State::Finished);
    // And the newer one runs what it has submitted.
    new.know(vec!["send".to_owned()]);
    new.start().unwrap();
    run_one(&new, &notes);
    new.close();
    web.close();
}

#[test]
fn old_code_starts_beside_newer_code_that_adds() {
    let folder = Folder::new();
    let (new, of_new) = code(&TWO, &folder);
    let (old, of_old) = claiming(&folder, 1);
    // One runs what the other one has submitted, both ways.
    let claim = mine(new.submit(task()).unwrap());
    let by_new = task();
    new.submit(by_new.clone()).unwrap();
    assert_eq!(run_one(&old, &of_old), by_new.id);
    let held = mine(old.submit(task()).unwrap());
    let by_old = task();
    old.submit(by_old.clone()).unwrap();
    new.change(claim, Change::End(finished())).unwrap();
    assert_eq!(run_one(&new, &of_new), by_old.id);
    old.change(held, Change::End(finished())).unwrap();
    let file = shell(&folder);
    assert_eq!(
        number(&file, "SELECT count(*) FROM task WHERE state = 6"),
        4
    );
    assert_eq!(
        number(&file, "SELECT count(*) FROM process WHERE layout = 1"),
        1
    );
    new.close();
    old.close();
}

#[test]
fn newer_code_waits_for_processes_of_older_code() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let held = task();
    web.submit(held.clone()).unwrap();
    web.close();
    let old = actor_of("hold", &folder);
    let began = Instant::now();
    let error = refused(&THREE, &folder);
    assert_eq!(error.kind, ErrorKind::Older);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let pid = format!("still use it: {};", old.pid());
    assert!(error.text.contains(&pid), "{error}");
    let file = shell(&folder);
    assert_eq!(versions(&file), (1, 1));
    let copy = folder.path().join("journal.db.v1");
    assert!(!copy.exists());
    // Older code goes on as before, also if it starts now.
    let (other, notes) = claiming(&folder, 1);
    let claim = mine(other.submit(task()).unwrap());
    other.change(claim, Change::End(finished())).unwrap();
    assert_eq!(notes.left(), (0, 0));
    other.close();
    old.kill();
    let (new, notes) = code(&THREE, &folder);
    assert_eq!(versions(&file), (3, 3));
    // What the dead one ran goes on.
    let claimed = notes.claimed();
    assert_eq!((&claimed.id, claimed.claim.attempt), (&held.id, 2));
    new.change(claimed.claim, Change::End(finished())).unwrap();
    // The copy is as the file was.
    let copy = Connection::open(copy).unwrap();
    assert_eq!(versions(&copy), (1, 1));
    assert_eq!(integrity(&copy).unwrap(), "ok");
    let states = "SELECT group_concat(state) FROM (SELECT state FROM task ORDER BY sequence)";
    let states: String = copy.query_row(states, [], |row| row.get(0)).unwrap();
    assert_eq!(states, "2,6");
    new.close();
}

#[test]
fn newer_code_goes_on_once_older_code_has_ended() {
    let folder = Folder::new();
    let (old, _) = watching(&folder);
    old.submit(task()).unwrap();
    std::thread::scope(|scope| {
        let new = scope.spawn(|| opened(&THREE, &folder).map(|(journal, _)| journal.close()));
        std::thread::sleep(Duration::from_millis(300));
        old.close();
        new.join().unwrap().unwrap();
    });
    assert_eq!(versions(&shell(&folder)), (3, 3));
}

#[test]
fn old_code_does_not_touch_what_it_cannot_use() {
    let folder = Folder::new();
    // Without a slot: it has only looked.
    let (old, _) = watching(&folder);
    assert_eq!(old.stats().unwrap().ready, 0);
    let (new, _) = opened(&THREE, &folder).unwrap();
    for error in [
        old.submit(task()).unwrap_err(),
        old.watch("any").unwrap_err(),
        refused(&schema::LAYOUT, &folder),
        refused(&TWO, &folder),
    ] {
        assert_eq!(error.kind, ErrorKind::Newer, "{error}");
        assert!(error.text.contains("deploy the newer code"), "{error}");
    }
    let file = shell(&folder);
    assert_eq!(number(&file, "SELECT count(*) FROM task"), 0);
    assert_eq!(number(&file, "SELECT count(*) FROM process"), 0);
    // The next newer code only adds to that.
    let (next, _) = opened(&FOUR, &folder).unwrap();
    assert_eq!(versions(&file), (4, 3));
    new.submit(task()).unwrap();
    assert_eq!(number(&file, "SELECT count(*) FROM task"), 1);
    for journal in [old, new, next] {
        journal.close();
    }
}

#[test]
fn a_look_of_old_code_says_what_is_wrong() {
    let folder = Folder::new();
    let (old, _) = watching(&folder);
    assert_eq!(old.stats().unwrap().ready, 0);
    let (new, _) = opened(&THREE, &folder).unwrap();
    // As if newer code had renamed what a look reads.
    shell(&folder)
        .execute_batch("ALTER TABLE task RENAME COLUMN note TO remark")
        .unwrap();
    assert_eq!(old.get("any").unwrap_err().kind, ErrorKind::Newer);
    old.close();
    new.close();
}

#[test]
fn many_migrate_at_once() {
    let folder = Folder::new();
    let (old, _) = watching(&folder);
    old.submit(task()).unwrap();
    old.close();
    std::thread::scope(|scope| {
        let one = || opened(&FOUR, &folder).unwrap().0.close();
        for thread in (0..8).map(|_| scope.spawn(one)).collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    });
    let file = shell(&folder);
    assert_eq!(versions(&file), (4, 3));
    assert_eq!(number(&file, "SELECT count(*) FROM shelf"), 1);
}

#[test]
fn a_migration_that_fails_leaves_the_file_as_it_was() {
    let folder = Folder::new();
    watching(&folder).0.close();
    let before = texts(&shell(&folder));
    let error = refused(&BROKEN, &folder);
    assert!(error.text.contains("no_such_table"), "{error}");
    let file = shell(&folder);
    assert_eq!(versions(&file), (1, 1));
    assert_eq!(texts(&file), before);
    // A copy that could not be finished is in nobody's way.
    std::fs::write(folder.path().join("journal.db.v1-half"), "half").unwrap();
    let (new, notes) = code(&THREE, &folder);
    assert!(folder.path().join("journal.db.v1").exists());
    assert!(!folder.path().join("journal.db.v1-half").exists());
    let claim = mine(new.submit(task()).unwrap());
    new.change(claim, Change::End(finished())).unwrap();
    assert_eq!(notes.left(), (0, 0));
    new.close();
}

#[test]
fn what_is_no_newer_layout_is_refused() {
    let statements = [
        "CREATE TRIGGER more AFTER INSERT ON task BEGIN DELETE FROM task; END",
        "CREATE VIEW more AS SELECT * FROM task",
        "ALTER TABLE task ADD COLUMN more TEXT AS (lower(id))",
        "DROP INDEX ready",
        "DROP TABLE body",
        "ALTER TABLE task RENAME COLUMN rank TO place",
    ];
    for sql in statements {
        let folder = Folder::new();
        opened(&TWO, &folder).unwrap().0.close();
        shell(&folder).execute_batch(sql).unwrap();
        for layout in [&schema::LAYOUT, &TWO] {
            let error = refused(layout, &folder);
            assert_eq!(error.kind, ErrorKind::Corrupt, "{sql}: {error}");
        }
    }
}

#[test]
fn copies_of_files_of_other_layouts() {
    let (folder, to) = (Folder::new(), Folder::new());
    let (old, _) = watching(&folder);
    let waiting = NewTask {
        arguments: "x".repeat(2_000),
        ..task()
    };
    old.submit(waiting.clone()).unwrap();
    old.close();
    let path = folder.database();
    // Newer code looks at the file of older code, and leaves it as it is.
    let found = rescue::inspect(&FOUR, &path);
    assert!(found.iter().all(|(is_well, _)| *is_well), "{found:?}");
    let copy = to.path().join("backup.db");
    rescue::backup(&FOUR, &path, &copy).unwrap();
    assert_eq!(versions(&Connection::open(&copy).unwrap()), (1, 1));
    assert_eq!(versions(&shell(&folder)), (1, 1));
    // What it saves has its own layout.
    let saved = to.path().join("saved.db");
    let done = rescue::salvage(&FOUR, &path, &saved).unwrap();
    assert_eq!((done.tasks, done.unfinished, done.lost), (1, 1, 0));
    let file = Connection::open(&saved).unwrap();
    assert_eq!(versions(&file), (4, 3));
    assert_eq!(number(&file, "SELECT length FROM shelf"), 1);
    drop(file);
    let notes = Notes::new(1);
    let new = Journal::open_as(&FOUR, settings(&saved), notes.clone()).unwrap();
    new.know(vec!["send".to_owned()]);
    new.start().unwrap();
    let claimed = notes.claimed();
    assert_eq!(claimed.arguments, waiting.arguments);
    new.change(claimed.claim, Change::End(finished())).unwrap();
    new.close();
    // Older code copies what newer code has added to, but does not save it: it would drop a part.
    opened(&TWO, &folder).unwrap().0.close();
    let copy = to.path().join("of-two.db");
    rescue::backup(&schema::LAYOUT, &path, &copy).unwrap();
    assert_eq!(versions(&Connection::open(&copy).unwrap()), (2, 1));
    let found = rescue::inspect(&schema::LAYOUT, &path);
    assert!(found.iter().all(|(is_well, _)| *is_well), "{found:?}");
    let saved = to.path().join("of-one.db");
    let error = rescue::salvage(&schema::LAYOUT, &path, &saved).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Newer);
    assert!(!saved.exists());
}

#[test]
fn an_old_file_that_is_put_back_is_migrated() {
    let folder = Folder::new();
    let (old, _) = watching(&folder);
    let waiting = task();
    old.submit(waiting.clone()).unwrap();
    let copy = folder.path().join("backup.db");
    rescue::backup(&schema::LAYOUT, &folder.database(), &copy).unwrap();
    old.close();
    // The processes of that time have ended; this one was one of them.
    let file = Connection::open(&copy).unwrap();
    file.execute("DELETE FROM process", []).unwrap();
    drop(file);
    let (new, notes) = code(&FOUR, &folder);
    run_one(&new, &notes);
    for file in ["journal.db-wal", "journal.db-shm"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    std::fs::rename(&copy, folder.database()).unwrap();
    notes.reported("replaced");
    assert_eq!(run_one(&new, &notes), waiting.id);
    until(|| versions(&shell(&folder)) == (4, 3));
    new.close();
}
