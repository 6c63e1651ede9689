//! What one process has of a journal. A forked child makes its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use flask_delay_engine::LazyPerProcess;
use log::Level;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::api::operation::Operation;
use crate::api::record::Sample;
use crate::api::{Claim, Error, ErrorKind, Host, Settings};
use crate::file::filesystem::{self, Identity, Place, refused};
use crate::file::layout::Layout;
use crate::file::schema::{self, Use};
use crate::file::trouble::Result;
use crate::file::wakeup::{Bed, Peers};
use crate::file::{migrate, turnstile, vfs};
use crate::process::flusher::{Flusher, Owner};
use crate::rows::kept::Checkpoints;
use crate::rows::store;
use crate::shared::gate::gate;
use crate::shared::queue::Queue;
use crate::shared::sync::Mutex;

/// What all processes of a journal share by inheritance; never changed.
pub(crate) struct Core {
    pub settings: Settings,
    pub host: Arc<dyn Host>,
    pub place: Place,
    pub boot: String,
    /// That of the file which was there at first.
    pub identity: OnceLock<String>,
    /// The layout that this code works with.
    pub layout: &'static Layout,
    /// Whether a page shows the tasks.
    pub records: AtomicBool,
}

/// A task whose progress is told: by its claim, or a plain one by its id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Claim(Claim),
    Plain(String),
}

/// What of a journal belongs to one process.
pub(crate) struct Part {
    pub core: Arc<Core>,
    pub queue: Queue<Operation>,
    pub bed: Bed,
    pub flusher: Flusher,
    /// Locked by threads inside the gate only. So it is free when the process forks, and the child
    /// may look into it.
    pub disk: Mutex<Disk>,
    /// As `disk`: the child takes them over.
    pub functions: Mutex<Vec<String>>,
    pub progress: Mutex<HashMap<Subject, store::Progress>>,
    /// Not taken by the writer thread yet. As `disk`.
    pub checkpoints: Mutex<Checkpoints>,
    /// Samples for a page, not taken by the writer thread yet. As `disk`.
    pub samples: Mutex<Vec<Sample>>,
    /// Whether the writer thread runs.
    pub has_writer: Mutex<bool>,
    /// No more claims: the process ends.
    pub is_leaving: AtomicBool,
    /// Tasks were left for lack of workers.
    pub is_hungry: AtomicBool,
    /// A worker has become free since.
    pub has_room: AtomicBool,
    /// The flusher could not write to the disk.
    pub is_sick: AtomicBool,
    /// When a thread last said which process has the turn.
    pub told_of_holder: Mutex<Option<Instant>>,
}

/// The open files.
#[derive(Default)]
pub(crate) struct Disk {
    pub connection: Option<Connection>,
    pub files: Files,
}

/// The open files but the database.
#[derive(Default)]
pub(crate) struct Files {
    /// Which file the connection has open.
    pub identity: Option<Identity>,
    /// Whether it was opened since the last turn, and was another file before.
    pub is_fresh: bool,
    /// How often the connection was opened.
    pub openings: u64,
    pub has_changed: bool,
    /// What the last look saw: when it changes, another process has committed. The numbers of another
    /// connection say nothing.
    pub data_version: Option<i64>,
    pub turnstile: Option<Arc<File>>,
    /// The log of the connection, for the flusher.
    pub log: Option<Arc<File>>,
    /// The log whose name is known to be on the disk.
    pub named_log: Option<Identity>,
    pub alive: Option<File>,
    pub fifo: Option<Arc<File>>,
    pub peers: Peers,
}

impl Part {
    pub(crate) fn new(core: Arc<Core>, functions: Vec<String>) -> io::Result<Self> {
        Ok(Self {
            core,
            queue: Queue::new(),
            bed: Bed::new()?,
            flusher: Flusher::new(),
            disk: Mutex::new(Disk::default()),
            functions: Mutex::new(functions),
            progress: Mutex::new(HashMap::new()),
            checkpoints: Mutex::new(Checkpoints::default()),
            samples: Mutex::new(Vec::new()),
            has_writer: Mutex::new(false),
            is_leaving: AtomicBool::new(false),
            is_hungry: AtomicBool::new(false),
            has_room: AtomicBool::new(false),
            is_sick: AtomicBool::new(false),
            told_of_holder: Mutex::new(None),
        })
    }

    /// The turnstile's file. Enters the gate.
    pub(crate) fn turnstile(&self) -> std::result::Result<Arc<File>, Error> {
        let _inside = gate().enter();
        let mut disk = self.disk.lock();
        if let Some(file) = &disk.files.turnstile {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(turnstile::open(&self.core.place)?);
        disk.files.turnstile = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Wakes the writer thread if it sleeps.
    pub(crate) fn wake(&self) {
        if self.queue.poke() {
            self.bed.wake();
        }
    }

    /// Whether what happens to tasks is noted, for a page.
    pub(crate) fn records(&self) -> bool {
        // Relaxed: what happens at the moment of the first page may be noted or not.
        self.core.records.load(Ordering::Relaxed)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        // Relaxed: what follows from it goes through the queue's lock.
        self.is_leaving.load(Ordering::Relaxed)
    }
}

impl Owner for Part {
    fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Has the writer thread look into it.
    fn disk_failed(&self, error: &io::Error) {
        let text = format!(
            "{}: the journal cannot be written to the disk: {error}; no task is accepted before it is \
             read again and copied",
            self.core.place.log().display()
        );
        self.core.host.report(Level::Error, text);
        // Relaxed: the queue's lock orders it.
        self.is_sick.store(true, Ordering::Relaxed);
        self.wake();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _inside = gate().enter();
        let mut disk = self.disk.lock();
        disk.suspend();
        // Threads may still run tasks of this slot: the lock goes with the process, or by a close
        // that leaves nothing behind.
        std::mem::forget(disk.files.alive.take());
    }
}

impl Disk {
    /// The connection and the other files; opens what is closed.
    pub(crate) fn open(&mut self, core: &Core) -> Result<(&Connection, &mut Files)> {
        self.open_as(core, false)
    }

    /// As `open`; makes the file if there is none. With the turnstile held.
    pub(crate) fn open_or_make(&mut self, core: &Core) -> Result<(&Connection, &mut Files)> {
        self.open_as(core, true)
    }

    fn open_as(&mut self, core: &Core, may_make: bool) -> Result<(&Connection, &mut Files)> {
        let Self { connection, files } = self;
        let connection = if let Some(connection) = connection {
            connection
        } else {
            let (place, layout) = (&core.place, core.layout);
            let opened = if may_make {
                let opened = schema::open(place, layout, Use::Own)?;
                migrate::migrate(place, layout, &opened)?;
                opened
            } else {
                schema::open(place, layout, Use::Shared)?
            };
            files.opened(core)?;
            connection.insert(opened)
        };
        Ok((connection, files))
    }

    /// Closes the connection, without a checkpoint: others have the file open, or will soon.
    pub(crate) fn suspend(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Without it the close would only take longer.
            _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            close(connection);
        }
        self.files.log = None;
    }
}

/// Closes a connection; statements are not in use here, so it cannot refuse.
pub(crate) fn close(connection: Connection) {
    connection.flush_prepared_statement_cache();
    drop(connection);
}

impl Files {
    /// After the connection was opened, which has made the log.
    fn opened(&mut self, core: &Core) -> std::result::Result<(), Error> {
        let place = &core.place;
        let path = place.log();
        let failed = |error| refused(&path, "cannot be opened", &error);
        let mut options = File::options();
        let log = options.read(true).write(true).open(&path).map_err(failed)?;
        let identity = Identity::of(&path).map_err(failed)?;
        if self.named_log != Some(identity) {
            // A new log's name must be on the disk before what is in it counts.
            place.sync_names().map_err(failed)?;
            self.named_log = Some(identity);
        }
        self.log = Some(Arc::new(log));
        let identity = Identity::of(&place.database).map_err(failed)?;
        self.is_fresh = true;
        self.data_version = None;
        self.openings += 1;
        self.has_changed |= self.identity.is_some_and(|it| it != identity);
        self.identity = Some(identity);
        Ok(())
    }

    /// Makes a log that was opened since the last turn as long as it becomes before a checkpoint.
    /// The sync of a write that makes a file longer takes half as long again. To be called in a
    /// transaction: no process writes to the log then, and what is behind its end has no meaning.
    pub(crate) fn lengthen_log(&self) {
        if self.is_fresh
            && let Some(log) = &self.log
        {
            // Without room for it, the log becomes longer as it is written.
            _ = filesystem::lengthen(log, schema::LONG_LOG);
        }
    }

    /// Lets go of all that belongs to a file which is gone. The own lock too: the next slot may
    /// have the same number.
    pub(crate) fn forget(&mut self) {
        self.alive = None;
        self.fifo = None;
        self.peers = Peers::default();
    }

    fn descriptors(&self) -> Vec<i32> {
        let mut found: Vec<i32> = self.peers.descriptors().collect();
        found.extend(self.turnstile.as_deref().map(AsRawFd::as_raw_fd));
        found.extend(self.log.as_deref().map(AsRawFd::as_raw_fd));
        found.extend(self.alive.as_ref().map(AsRawFd::as_raw_fd));
        found.extend(self.fifo.as_deref().map(AsRawFd::as_raw_fd));
        found
    }
}

/// The parts of this process, for the fork handlers. Changed inside the gate only.
static PARTS: LazyPerProcess<Mutex<Vec<Weak<Part>>>> = LazyPerProcess::new();

/// Makes a part known to the fork handlers.
pub(crate) fn register(part: &Arc<Part>) {
    let _inside = gate().enter();
    let mut parts = PARTS.get_or_init(|| Mutex::new(Vec::new())).lock();
    parts.retain(|part| part.strong_count() > 0);
    parts.push(Arc::downgrade(part));
}

fn parts(all: &Mutex<Vec<Weak<Part>>>) -> Vec<Arc<Part>> {
    all.lock().iter().filter_map(Weak::upgrade).collect()
}

thread_local! {
    /// The parts of this process from before a fork of this thread until after it: the last owner
    /// of a part needs the gate to drop it.
    static KEPT: Cell<Vec<Arc<Part>>> = const { Cell::new(Vec::new()) };
}

/// Before a fork, on the thread that forks: waits until no thread is inside SQLite, keeps them out,
/// and closes all connections.
pub fn before_fork() {
    gate().close();
    let parts = PARTS.get().map(parts).unwrap_or_default();
    for part in &parts {
        part.disk.lock().suspend();
    }
    KEPT.set(parts);
}

/// After a fork, in the parent, on the thread that has forked.
pub fn after_fork_in_parent() {
    gate().open();
    drop(KEPT.take());
}

/// After a fork, in the child, on its only thread, when its generation has begun: closes what it
/// has from its parent.
pub fn after_fork_in_child() {
    for part in KEPT.take() {
        // No thread has it locked: the gate was closed.
        for descriptor in part.disk.lock().files.descriptors() {
            vfs::close_inherited(descriptor);
        }
        for descriptor in part.bed.descriptors() {
            vfs::close_inherited(descriptor);
        }
        // Never dropped here: its owners must not close the descriptors again.
        _ = ManuallyDrop::new(part);
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the journal is closed")
}
