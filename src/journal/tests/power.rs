//! Power cuts: every write, truncation and sync of two journals is noted, the power is cut at random
//! moments, and what was answered for has to be there. What was not synced is lost in sectors.
#![cfg(all(target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

#[path = "support/app.rs"]
mod app;
mod support;
#[path = "support/system.rs"]
mod system;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use app::{Running, done};
use flask_delay_journal::{Accepted, Error, NewTask, Settings, SyncLevel};
use rusqlite::Connection;
use support::{Folder, Random, integrity, say, settings, task};
use system::{Deed, Kind, note, record, recorded};

/// The deeds are the whole process's: one test at a time.
static ONE: Mutex<()> = Mutex::new(());
const SECTOR: usize = 512;

/// How a task is submitted.
type Submit = fn(&Running, NewTask) -> Result<Accepted, Error>;

/// What two journals do in that time, with four threads that submit.
fn deeds(sync: SyncLevel, submit: Submit, time: Duration) -> Vec<Deed> {
    let folder = Folder::new();
    let start = || {
        let settings = Settings {
            sync,
            ..settings(&folder.database())
        };
        Running::start(settings, &["send"], 2, Arc::new(|_: &_| done())).unwrap()
    };
    // The journal's own replacement of a system call comes first.
    start().close();
    system::intercept();
    let base = ["", "-wal"].map(|suffix| {
        let path = format!("{}{suffix}", folder.database().display());
        std::fs::read(path).unwrap_or_default()
    });
    record();
    // What was there before is on the disk.
    for (kind, content) in [Kind::Database, Kind::Log].into_iter().zip(base) {
        note(Deed::Write(kind, 0, content));
        note(Deed::SyncBegins(kind, usize::MAX));
        note(Deed::SyncEnds(kind, usize::MAX));
    }
    let running = [start(), start()];
    let began = Instant::now();
    thread::scope(|scope| {
        for running in &running {
            for _ in 0..2 {
                scope.spawn(|| {
                    while began.elapsed() < time {
                        let task = NewTask {
                            arguments: "x".repeat(600),
                            ..task()
                        };
                        let id = task.id.clone();
                        submit(running, task).unwrap();
                        note(Deed::Told(id));
                    }
                });
            }
        }
    });
    let deeds = recorded();
    for running in running {
        running.close();
    }
    deeds
}

/// A file as it is after a cut.
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    fn write(&mut self, at: u64, data: &[u8]) {
        let at = usize::try_from(at).unwrap();
        let end = at + data.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[at..end].copy_from_slice(data);
    }
}

/// The database and its log if the power is cut after these deeds: what was synced is there, and of
/// the rest any part.
fn cut(deeds: &[Deed], random: &mut Random) -> [Vec<u8>; 2] {
    let mut begun = Vec::new();
    let mut safe = [0; 2];
    for (place, deed) in deeds.iter().enumerate() {
        match deed {
            Deed::SyncBegins(_, number) => begun.push((*number, place)),
            Deed::SyncEnds(kind, number) => {
                let (_, place) = begun.iter().find(|(it, _)| it == number).unwrap();
                safe[*kind as usize] = safe[*kind as usize].max(*place);
            }
            _ => {}
        }
    }
    let mut files = [Image::default(), Image::default()];
    let likely = random.below(101);
    let mut is_kept =
        |place: usize, kind: Kind| place < safe[kind as usize] || random.below(100) < likely;
    for (place, deed) in deeds.iter().enumerate() {
        match deed {
            Deed::Write(kind, at, data) => {
                let mut at = *at;
                for sector in data.chunks(SECTOR) {
                    if is_kept(place, *kind) {
                        files[*kind as usize].write(at, sector);
                    }
                    at += sector.len() as u64;
                }
            }
            Deed::Truncate(kind, length) if is_kept(place, *kind) => {
                files[*kind as usize]
                    .0
                    .resize(usize::try_from(*length).unwrap(), 0);
            }
            _ => {}
        }
    }
    files.map(|image| image.0)
}

/// What was found after cuts.
#[derive(Debug, Default)]
struct Found {
    damaged: usize,
    /// Cuts after which tasks were missing that had been answered for.
    losses: usize,
    looks: usize,
}

fn cut_often(deeds: &[Deed], cuts: usize, seed: u64) -> Found {
    let folder = Folder::new();
    let mut random = Random::new(seed);
    let mut found = Found::default();
    let first = deeds.iter().position(|deed| matches!(deed, Deed::Told(_)));
    let first = first.unwrap();
    for number in 0..cuts {
        let deeds = &deeds[..first + random.below(deeds.len() - first)];
        let told: Vec<&str> = deeds
            .iter()
            .filter_map(|deed| match deed {
                Deed::Told(id) => Some(&**id),
                _ => None,
            })
            .collect();
        let files = cut(deeds, &mut random);
        let path = folder.path().join(format!("{number}.db"));
        for (suffix, content) in ["", "-wal"].into_iter().zip(files) {
            std::fs::write(format!("{}{suffix}", path.display()), content).unwrap();
        }
        found.looks += told.len();
        match look(&path) {
            Ok((true, there)) => {
                let is_lost = told.iter().any(|&id| !there.contains(id));
                found.losses += usize::from(is_lost);
            }
            Ok((false, _)) | Err(_) => found.damaged += 1,
        }
        for suffix in ["", "-wal", "-shm"] {
            _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
    found
}

/// Whether a file is whole, and which tasks are in it.
fn look(path: &std::path::Path) -> rusqlite::Result<(bool, HashSet<String>)> {
    let connection = Connection::open(path)?;
    let verdict = integrity(&connection)?;
    let mut statement = connection.prepare("SELECT id FROM task")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok((verdict == "ok", ids.collect::<rusqlite::Result<_>>()?))
}

/// The deeds as they would be if the system did not sync when it is told to.
fn without_syncs(deeds: &[Deed]) -> Vec<Deed> {
    let is_sync = |deed: &&Deed| matches!(deed, Deed::SyncBegins(_, number) | Deed::SyncEnds(_, number) if *number != usize::MAX);
    deeds
        .iter()
        .filter(|deed| !is_sync(deed))
        .cloned()
        .collect()
}

fn check(time: Duration, cuts: usize) {
    let _one = ONE.lock();
    let all = deeds(SyncLevel::Commit, Running::submit, time);
    let checkpoints = all
        .iter()
        .filter(|deed| matches!(deed, Deed::SyncEnds(Kind::Database, _)))
        .count();
    let found = cut_often(&all, cuts, 1);
    say(&format!(
        "{cuts} cuts, {checkpoints} checkpoints: {found:?}"
    ));
    assert_eq!((found.damaged, found.losses), (0, 0), "{found:?}");
    assert!(found.looks > 0);
    assert!(checkpoints > 1, "too few to tell: {checkpoints}");

    // The controls: the same must be found out where less is done for safety.
    let later = deeds(SyncLevel::Second, Running::submit, time);
    let found = cut_often(&later, cuts, 2);
    say(&format!("answered before the sync: {found:?}"));
    assert_eq!(found.damaged, 0, "{found:?}");
    assert!(found.losses > cuts / 10, "{found:?}");
    let found = cut_often(&without_syncs(&all), cuts, 3);
    say(&format!("without any sync: {found:?}"));
    assert!(found.losses + found.damaged > cuts / 2, "{found:?}");
}

#[test]
fn what_was_answered_for_survives_some_power_cuts() {
    check(Duration::from_millis(1500), 20);
}

#[test]
#[ignore = "takes minutes: make faults"]
fn what_was_answered_for_survives_power_cuts() {
    check(Duration::from_secs(5), 500);
}

#[test]
fn what_an_outbox_may_forget_survives_power_cuts_at_every_level() {
    let _one = ONE.lock();
    for (sync, seed) in [(SyncLevel::Second, 4), (SyncLevel::Never, 5)] {
        let all = deeds(sync, Running::carry, Duration::from_millis(500));
        let found = cut_often(&all, 20, seed);
        say(&format!("carried over, at {sync:?}: {found:?}"));
        assert_eq!((found.damaged, found.losses), (0, 0), "{found:?}");
        assert!(found.looks > 0);
    }
}
