//! Shared parts of the tests: a folder, a host that notes what it is told, tasks.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a failed test has to panic"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flask_delay_journal::{
    Accepted, Change, Claim, Claimed, Command, DeadLetter, Found, Host, Journal, NewTask, Outcome,
    Pool, Row, Settings, SyncLevel,
};
use rusqlite::Connection;

/// More than any test needs; reached only when something is lost.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A folder of its own, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flask-delay-journal-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("journal.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Default)]
struct Noted {
    run: Vec<Claimed>,
    ended: Vec<Row>,
    stops: Vec<String>,
    commands: Vec<Command>,
    asked: Vec<i64>,
    dead: Vec<DeadLetter>,
    reports: Vec<(log::Level, String)>,
    capacity: [Option<usize>; 3],
}

/// A host that notes what it is told, and runs nothing by itself.
#[derive(Default)]
pub(crate) struct Notes {
    noted: Mutex<Noted>,
    bell: Condvar,
}

impl Notes {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let notes = Self::default();
        notes.set_capacity([Some(workers), None, None]);
        Arc::new(notes)
    }

    pub(crate) fn set_capacity(&self, capacity: [Option<usize>; 3]) {
        self.noted.lock().unwrap().capacity = capacity;
    }

    #[track_caller]
    fn take<T>(&self, mut look: impl FnMut(&mut Noted) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        let mut noted = self.noted.lock().unwrap();
        loop {
            if let Some(found) = look(&mut noted) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never told");
            noted = self.bell.wait_timeout(noted, left).unwrap().0;
        }
    }

    /// The next claimed task.
    #[track_caller]
    pub(crate) fn claimed(&self) -> Claimed {
        self.take(|noted| (!noted.run.is_empty()).then(|| noted.run.remove(0)))
    }

    /// The next row that has ended.
    #[track_caller]
    pub(crate) fn ended(&self) -> Row {
        self.take(|noted| (!noted.ended.is_empty()).then(|| noted.ended.remove(0)))
    }

    #[track_caller]
    pub(crate) fn stopped(&self) -> String {
        self.take(|noted| (!noted.stops.is_empty()).then(|| noted.stops.remove(0)))
    }

    #[track_caller]
    pub(crate) fn commanded(&self) -> Command {
        self.take(|noted| (!noted.commands.is_empty()).then(|| noted.commands.remove(0)))
    }

    /// When this process was asked which tasks it has.
    #[track_caller]
    pub(crate) fn asked(&self) -> i64 {
        self.take(|noted| (!noted.asked.is_empty()).then(|| noted.asked.remove(0)))
    }

    pub(crate) fn has_no_command(&self) -> bool {
        self.noted.lock().unwrap().commands.is_empty()
    }

    /// The next dead letter.
    #[track_caller]
    pub(crate) fn dead(&self) -> DeadLetter {
        self.take(|noted| (!noted.dead.is_empty()).then(|| noted.dead.remove(0)))
    }

    /// How many dead letters no test has looked at.
    pub(crate) fn letters(&self) -> usize {
        self.noted.lock().unwrap().dead.len()
    }

    /// The next line for the log with that in it.
    #[track_caller]
    pub(crate) fn reported(&self, part: &str) -> (log::Level, String) {
        self.take(|noted| {
            let place = noted
                .reports
                .iter()
                .position(|(_, text)| text.contains(part))?;
            Some(noted.reports.remove(place))
        })
    }

    /// How many tasks were claimed and rows ended that no test has looked at.
    pub(crate) fn left(&self) -> (usize, usize) {
        let noted = self.noted.lock().unwrap();
        (noted.run.len(), noted.ended.len())
    }

    pub(crate) fn reports(&self) -> Vec<String> {
        let noted = self.noted.lock().unwrap();
        noted.reports.iter().map(|(_, text)| text.clone()).collect()
    }
}

impl Host for Notes {
    fn capacity(&self) -> [Option<usize>; 3] {
        self.noted.lock().unwrap().capacity
    }

    fn run(&self, tasks: Vec<Claimed>) {
        self.noted.lock().unwrap().run.extend(tasks);
        self.bell.notify_all();
    }

    fn ended(&self, rows: Vec<Row>) {
        self.noted.lock().unwrap().ended.extend(rows);
        self.bell.notify_all();
    }

    fn stop(&self, id: &str) {
        self.noted.lock().unwrap().stops.push(id.to_owned());
        self.bell.notify_all();
    }

    fn command(&self, command: Command) {
        self.noted.lock().unwrap().commands.push(command);
        self.bell.notify_all();
    }

    fn asked(&self, at: i64) {
        self.noted.lock().unwrap().asked.push(at);
        self.bell.notify_all();
    }

    fn dead(&self, letters: Vec<DeadLetter>) {
        self.noted.lock().unwrap().dead.extend(letters);
        self.bell.notify_all();
    }

    fn report(&self, level: log::Level, text: String) {
        self.noted.lock().unwrap().reports.push((level, text));
        self.bell.notify_all();
    }
}

pub(crate) fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        app: "shop|delay".to_owned(),
        sync: SyncLevel::Second,
        keep: Duration::from_hours(24),
        limit: 100_000,
        deaths: 3,
        timeout: LONG,
        waiting: 0,
        most: 1_000_000,
        code: "0.1.0".to_owned(),
    }
}

/// Those of a journal that answers for a task when it is on the disk.
pub(crate) fn careful(path: &Path) -> Settings {
    Settings {
        sync: SyncLevel::Commit,
        ..settings(path)
    }
}

/// A connection beside the journal's, as a person with a shell has it.
pub(crate) fn shell(folder: &Folder) -> Connection {
    let connection = Connection::open(folder.database()).unwrap();
    connection.busy_timeout(LONG).unwrap();
    connection
}

/// What SQLite says of a file: "ok".
pub(crate) fn integrity(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))
}

/// For the parent of a child, and for people that wait.
#[allow(clippy::print_stdout, reason = "others read it")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// A journal that claims tasks of "send", with its host.
pub(crate) fn claiming(folder: &Folder, workers: usize) -> (Journal, Arc<Notes>) {
    let (journal, notes) = with(settings(&folder.database()), workers);
    journal.know(vec!["send".to_owned()]);
    journal.start().unwrap();
    (journal, notes)
}

/// A journal that submits and reads only.
pub(crate) fn watching(folder: &Folder) -> (Journal, Arc<Notes>) {
    with(settings(&folder.database()), 0)
}

pub(crate) fn with(settings: Settings, workers: usize) -> (Journal, Arc<Notes>) {
    let notes = Notes::new(workers);
    let journal = Journal::open(settings, notes.clone()).unwrap();
    (journal, notes)
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

/// Unlike any other of this process.
pub(crate) fn id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{next:08}", std::process::id())
}

pub(crate) fn task() -> NewTask {
    NewTask {
        id: id(),
        function: "send".to_owned(),
        pool: Pool::Threads,
        arguments: "{\"args\": [7], \"kwargs\": {}}".to_owned(),
        options: None,
        rank: now(),
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

pub(crate) fn mine(accepted: Accepted) -> Claim {
    match accepted {
        Accepted::Mine(claim) => claim,
        other => panic!("not started at once: {other:?}"),
    }
}

/// Another attempt, at once.
pub(crate) fn again() -> Change {
    Change::Again {
        due: None,
        why: None,
    }
}

pub(crate) fn finished() -> Outcome {
    Outcome::Finished {
        result: Some("42".to_owned()),
        unkept: None,
    }
}

/// Whether the journal has a task.
pub(crate) fn found(journal: &Journal, id: &str) -> bool {
    matches!(journal.get(id).unwrap(), Found::Row(_))
}

pub(crate) fn row(journal: &Journal, id: &str) -> Row {
    match journal.get(id).unwrap() {
        Found::Row(row) => *row,
        other => panic!("no row: {other:?}"),
    }
}

/// Random numbers, the same for each seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Waits until that is so.
#[track_caller]
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "never so");
        std::thread::sleep(Duration::from_millis(5));
    }
}
