//! Copies of sound journals, and of damaged ones.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::collections::HashSet;
use std::os::unix::fs::{FileExt, PermissionsExt};

use flask_delay_journal::{Change, Filter, Journal, NewTask, State, backup, inspect, salvage};
use rusqlite::Connection;
use support::{Folder, claiming, finished, mine, now, row, settings, task, with};

/// Many tasks: some have ended, one runs, the rest waits.
fn fill(journal: &Journal, count: usize) -> Vec<String> {
    let submit = |number: usize| {
        let task = NewTask {
            due: (number >= 10).then(|| now() + 3_600_000_000),
            arguments: format!("{{\"args\": [\"{}\"], \"kwargs\": {{}}}}", "x".repeat(300)),
            ..task()
        };
        let accepted = journal.submit(task.clone()).unwrap();
        if number < 9 {
            journal
                .change(mine(accepted), Change::End(finished()))
                .unwrap();
        }
        task.id
    };
    (0..count).map(submit).collect()
}

fn ids(journal: &Journal) -> HashSet<String> {
    let rows = journal.list(&Filter::default(), usize::MAX, None).unwrap();
    rows.unwrap().into_iter().map(|row| row.id).collect()
}

#[test]
fn a_backup_is_made_while_the_journal_is_used() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let all = fill(&journal, 30);
    let to = folder.path().join("copy.db");
    backup(&folder.database(), &to).unwrap();
    let mode = std::fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = backup(&folder.database(), &to).unwrap_err();
    assert!(error.text.contains("there already"), "{error}");
    let later = task();
    journal.submit(later.clone()).unwrap();
    let (copy, _) = with(settings(&to), 0);
    assert_eq!(ids(&copy), all.iter().cloned().collect());
    assert_eq!(row(&copy, &all[9]).state, State::Running);
    copy.close();
    assert_eq!(ids(&journal).len(), 31);
    journal.close();
    let error = backup(&folder.path().join("none.db"), &to).unwrap_err();
    assert!(error.text.contains("there is no journal"), "{error}");
}

#[test]
fn a_sound_file_is_found_sound() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    fill(&journal, 20);
    let found = inspect(&folder.database());
    assert!(found.iter().all(|(holds, _)| *holds), "{found:?}");
    assert!(found.last().unwrap().1.contains("sound"));
    journal.close();
    let found = inspect(&folder.path().join("none.db"));
    assert!(
        found.last().unwrap().1.contains("no journal yet"),
        "{found:?}"
    );
}

/// Has all of the log in the database.
fn settle(folder: &Folder) -> i64 {
    let connection = Connection::open(folder.database()).unwrap();
    let busy: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(busy, 0);
    connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn what_can_be_read_of_a_damaged_file_is_saved() {
    let folder = Folder::new();
    let (journal, _) = claiming(&folder, 1);
    let all = fill(&journal, 400);
    let to = folder.path().join("saved.db");
    let error = salvage(&folder.database(), &to).unwrap_err();
    assert!(error.text.contains("stop the app"), "{error}");
    journal.close();
    // The lock stays with the process, which has left a task: here it is this one itself.
    for entry in std::fs::read_dir(folder.path().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "alive") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let pages = settle(&folder);
    let before = std::fs::read(folder.database()).unwrap();
    // A page of the table's leaves: the ids of its rows are in it, and in an index.
    let has = |page: &[u8], id: &String| page.windows(id.len()).any(|it| it == id.as_bytes());
    let page = before
        .chunks(4096)
        .position(|page| page[0] == 13 && has(page, &all[200]))
        .unwrap();
    let lost: HashSet<_> = all
        .iter()
        .filter(|id| has(&before[page * 4096..(page + 1) * 4096], id))
        .cloned()
        .collect();
    assert!(
        pages > 10 && (1..50).contains(&lost.len()),
        "{pages} {lost:?}"
    );
    let file = std::fs::File::options()
        .write(true)
        .open(folder.database())
        .unwrap();
    file.write_all_at(&[0xee; 4096], page as u64 * 4096)
        .unwrap();
    let damaged = std::fs::read(folder.database()).unwrap();
    assert!(inspect(&folder.database()).iter().any(|(holds, _)| !holds));

    let done = salvage(&folder.database(), &to).unwrap();
    assert_eq!(std::fs::read(folder.database()).unwrap(), damaged);
    assert_eq!(
        (done.tasks, done.lost),
        (400 - lost.len() as u64, lost.len() as u64)
    );
    assert_eq!(done.unfinished, done.tasks - 9);
    assert!(!done.is_partial);
    let mode = std::fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (saved, notes) = with(settings(&to), 1);
    let expected: HashSet<_> = all
        .iter()
        .filter(|id| !lost.contains(*id))
        .cloned()
        .collect();
    assert_eq!(ids(&saved), expected);
    assert_eq!(row(&saved, &all[0]).result.as_deref(), Some("42"));
    // What ran is ready again, and keeps its number of attempts.
    saved.know(vec!["send".to_owned()]);
    saved.start().unwrap();
    let claimed = notes.claimed();
    assert_eq!((&claimed.id, claimed.claim.attempt), (&all[9], 2));
    saved
        .change(claimed.claim, Change::End(finished()))
        .unwrap();
    saved.close();
}

#[test]
fn nothing_is_saved_of_what_is_no_journal() {
    let folder = Folder::new();
    let to = folder.path().join("saved.db");
    std::fs::write(folder.database(), [7; 8192]).unwrap();
    let error = salvage(&folder.database(), &to).unwrap_err();
    assert!(error.text.contains("not a database"), "{error}");
    assert!(!to.exists());
}
