//! What processes tell each other of tasks that the file does not have.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use flask_delay_journal::{Journal, Told};
use process::{Actor, role, wait_for_end};
use support::{Folder, LONG, claiming, now, say, settings, until, with};

/// Asks on a thread of its own, while `answer` acts for the other process.
fn asked(journal: &Journal, answer: impl FnOnce()) -> Vec<Option<String>> {
    let told = std::thread::scope(|scope| {
        let asking = scope.spawn(|| journal.others(LONG).unwrap());
        answer();
        asking.join().unwrap()
    });
    told.into_iter().map(|it| it.text).collect()
}

#[test]
fn each_is_asked_once_and_answers_without_a_commit() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 0);
    let (two, of_two) = claiming(&folder, 0);
    let (three, of_three) = claiming(&folder, 0);
    until(|| one.workers().unwrap().len() == 3);
    let (before, version) = (now(), one.version().unwrap());
    let told = asked(&one, || {
        for (journal, notes, text) in [(&two, &of_two, "of two"), (&three, &of_three, "")] {
            let at = notes.asked();
            assert!(at >= before);
            journal.show(at, text.to_owned());
        }
    });
    assert_eq!(told, [Some("of two".to_owned()), Some(String::new())]);
    assert_eq!(one.version().unwrap(), version);
    // What was told is not told again.
    let late = one.others(Duration::from_millis(20)).unwrap();
    assert!(late.iter().all(|it| it.text.is_none()));
    for notes in [&of_two, &of_three] {
        notes.asked();
    }
    for journal in [one, two, three] {
        journal.close();
    }
}

#[test]
fn the_file_is_for_this_user_and_goes_with_its_process() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 0);
    let (two, of_two) = claiming(&folder, 0);
    until(|| one.workers().unwrap().len() == 2);
    let told = asked(&one, || two.show(of_two.asked(), "x".repeat(10_000)));
    assert_eq!(told, [Some("x".repeat(10_000))]);
    let files = || {
        let names = fs::read_dir(folder.path().join("journal")).unwrap();
        let paths = names.map(|it| it.unwrap().path());
        paths
            .filter(|it| {
                it.extension()
                    .is_some_and(|it| it == "tasks" || it == "new")
            })
            .collect::<Vec<_>>()
    };
    let path = files().pop().unwrap();
    assert_eq!(files().len(), 1);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What somebody else writes there is no answer.
    for text in ["", "0\nold", "soon\nnow", "99999999999999999999\nlate"] {
        fs::write(&path, text).unwrap();
        let told = one.others(Duration::ZERO).unwrap();
        assert!(told.iter().all(|it| it.text.is_none()), "{text}");
    }
    fs::write(&path, b"9999999999999999\n\xff").unwrap();
    assert_eq!(one.others(Duration::ZERO).unwrap()[0].text, None);
    two.close();
    assert_eq!(files(), Vec::<std::path::PathBuf>::new());
    one.close();
}

#[test]
fn a_stopped_process_is_named_and_a_dead_one_is_not() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 0);
    let mut other = Actor::start("hold", folder.path());
    other.hear("there");
    until(|| one.workers().unwrap().len() == 2);
    // It has no page, and does not answer.
    let told = one.others(Duration::from_millis(10)).unwrap();
    let pid = i64::from(other.pid());
    assert_eq!(told, [Told { pid, text: None }]);
    other.kill();
    assert_eq!(one.others(Duration::from_millis(10)).unwrap(), []);
    one.close();
}

#[test]
fn a_process_of_another_app_that_says_so_is_not_asked() {
    let folder = Folder::new();
    let (one, _) = claiming(&folder, 0);
    let mut other = settings(&folder.database());
    other.app = "reports|delay".to_owned();
    let (two, _) = with(other, 0);
    two.start().unwrap();
    two.record();
    two.tell_about("{}".to_owned());
    until(|| one.others(Duration::ZERO).unwrap().is_empty());
    for journal in [one, two] {
        journal.close();
    }
}

#[test]
#[ignore = "a process of another test"]
fn actor() {
    let (_, folder) = role();
    let (journal, _) = with(settings(&folder.join("journal.db")), 0);
    journal.start().unwrap();
    say("there");
    wait_for_end();
}
