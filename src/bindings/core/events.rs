//! Events of tasks: one stream per process, in order.
//!
//! It has five subscribers: the figures of `stats()`, Python's signals, the log of events, the samples
//! of a page's plots, and the record of what a page lists. One word, [`WANTED`], holds all subscriptions: an event without
//! subscribers costs one load of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flask_delay_engine::{LazyPerProcess, Mutex, Phase};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::executor::Core;
use super::id::Id;
use super::metrics;
use super::recorder;
use super::task::{Task, name_of};
use crate::bindings::errors::TaskExpired;
use crate::bindings::ffi::clock::now;

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Submitted = 0,
    Started = 1,
    Succeeded = 2,
    Failed = 3,
    Cancelled = 4,
    // The kinds below have no signal with a future.
    Expired = 5,
    Retrying = 6,
    Progress = 7,
    Dead = 8,
}

/// The number of kinds with a signal of a future, which come first.
pub(crate) const SIGNALS: usize = 5;

impl Kind {
    /// The kind of a done phase. It does not tell expired tasks from failed ones.
    pub(crate) fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Pending | Phase::Running => None,
            Phase::Cancelled | Phase::Notified => Some(Self::Cancelled),
            Phase::Finished => Some(Self::Succeeded),
            Phase::Failed => Some(Self::Failed),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Retrying => "retrying",
            Self::Progress => "progress",
            Self::Dead => "dead",
        }
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// A subscriber to events: each has ten bits of [`WANTED`], one for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    Metrics = 0,
    Signals = 10,
    Log = 20,
    /// Of what changes how many wait or run: it wakes the sampler.
    Samples = 30,
    Recorder = 40,
}

/// All subscriptions. Bits of the figures and the signals stay set.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// Subscribes to events from now on.
pub(crate) fn subscribe(subscriber: Subscriber, kinds: &[Kind]) {
    let bits = kinds.iter().fold(0, |bits, kind| bits | kind.bit());
    // Relaxed, here and in `wanted`: a concurrent event may be reported or not.
    WANTED.fetch_or(bits << subscriber as u32, Ordering::Relaxed);
}

/// The subscribers to an event.
#[derive(Clone, Copy)]
pub(crate) struct Wanted(u64);

/// The subscribers to this kind. Expiries go to the subscribers to failures.
pub(crate) fn wanted(kind: Kind) -> Wanted {
    Wanted(WANTED.load(Ordering::Relaxed) >> kind as u32)
}

impl Wanted {
    pub(crate) fn by(self, subscriber: Subscriber) -> bool {
        self.0 & 1 << subscriber as u32 != 0
    }

    /// Whether a subscriber notes the event, which calls no user code.
    pub(crate) fn to_be_noted(self) -> bool {
        const NOTED: u64 = 1 << Subscriber::Metrics as u32
            | 1 << Subscriber::Log as u32
            | 1 << Subscriber::Samples as u32
            | 1 << Subscriber::Recorder as u32;
        self.0 & NOTED != 0
    }
}

/// Notes an event for the figures and for the log. Signals are sent in `host::signals`: they call
/// user code, with an app context.
#[inline]
pub(crate) fn happened(this: &Bound<'_, Task>, kind: Kind) {
    let wanted = wanted(kind);
    if wanted.to_be_noted() {
        note(this, kind, wanted);
    }
}

#[inline(never)]
fn note(this: &Bound<'_, Task>, kind: Kind, wanted: Wanted) {
    if wanted.by(Subscriber::Metrics) {
        match kind {
            Kind::Retrying => metrics::retried(this),
            _ => metrics::ended(this),
        }
    }
    if wanted.by(Subscriber::Samples)
        && let Some(core) = this.get().core()
        && core.samples().is_some()
    {
        (core.runner.sample)(core);
    }
    if wanted.by(Subscriber::Recorder) {
        record(this, kind);
    }
    if wanted.by(Subscriber::Log) {
        let kind = if kind == Kind::Failed && has_expired(this) {
            Kind::Expired
        } else {
            kind
        };
        let (id, name) = (this.get().quiet_id(), name_of(this));
        LOG.get_or_init(Mutex::default).lock().add(kind, id, name);
    }
}

fn record(this: &Bound<'_, Task>, kind: Kind) {
    if let Some(recorder) = this.get().core().and_then(|core| core.recorder()) {
        match kind {
            Kind::Started => recorder.left_queue(this.py()),
            Kind::Succeeded | Kind::Failed | Kind::Cancelled => recorder.ended(this),
            _ => {}
        }
        // Afterwards: a page that sees the number sees what was recorded.
        recorder::count();
    }
}

/// Notes a dead letter. It may be of a task that this process has nothing of but its row.
pub(crate) fn died(core: &Arc<Core>, id: &str, name: &str) {
    let wanted = wanted(Kind::Dead);
    if wanted.by(Subscriber::Metrics) {
        metrics::died(core, name);
    }
    if wanted.by(Subscriber::Recorder) {
        recorder::count();
    }
    if wanted.by(Subscriber::Log) {
        let log = LOG.get_or_init(Mutex::default);
        log.lock().add(Kind::Dead, Id::new(id), name.to_owned());
    }
}

fn has_expired(this: &Bound<'_, Task>) -> bool {
    let outcome = this.get().done_outcome(this.py());
    matches!(outcome, Some(Err(exception)) if exception.is_instance_of::<TaskExpired>())
        && !this.get().has_begun()
}

/// An event in the log.
#[derive(Clone)]
pub(crate) struct Event {
    /// Counts the process's events from 1.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) name: String,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
}

/// The most events that the log keeps; the oldest goes first.
const CAPACITY: usize = 8_192;

/// The newest events of a process. The lock around it is a leaf, and it holds no Python object.
#[derive(Default)]
struct Log {
    events: VecDeque<Event>,
    last: u64,
}

impl Log {
    fn add(&mut self, kind: Kind, id: Id, name: String) {
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Event {
            number: self.last,
            kind,
            id,
            name,
            time: now(),
        });
    }
}

static LOG: LazyPerProcess<Mutex<Log>> = LazyPerProcess::new();

/// The number of readers of the log. The last one unsubscribes it. The lock is a leaf.
static READERS: Mutex<usize> = Mutex::new(0);

/// The events that figures count.
pub(crate) const COUNTED: [Kind; 5] = [
    Kind::Succeeded,
    Kind::Failed,
    Kind::Cancelled,
    Kind::Retrying,
    Kind::Dead,
];

pub(crate) const ALL: [Kind; 9] = [
    Kind::Submitted,
    Kind::Started,
    Kind::Succeeded,
    Kind::Failed,
    Kind::Cancelled,
    Kind::Expired,
    Kind::Retrying,
    Kind::Progress,
    Kind::Dead,
];

/// The log keeps events while a reader exists.
pub(crate) struct Reader(());

impl Reader {
    pub(crate) fn new() -> Self {
        *READERS.lock() += 1;
        subscribe(Subscriber::Log, &ALL);
        Self(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = READERS.lock();
        *readers -= 1;
        if *readers == 0 {
            // Under the lock, so that a new reader subscribes after that.
            WANTED.fetch_and(!(0x3ff << Subscriber::Log as u32), Ordering::Relaxed);
        }
    }
}

/// Up to `most` of the events after number `after`, oldest first, and the number of later events
/// that were dropped.
pub(crate) fn read(after: u64, most: usize) -> (Vec<Event>, u64) {
    let log = LOG.get_or_init(Mutex::default).lock();
    let next = after.saturating_add(1);
    let first = log
        .events
        .front()
        .map_or(log.last + 1, |event| event.number);
    let skipped = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
    let read = log.events.iter().skip(skipped).take(most).cloned();
    (read.collect(), first.saturating_sub(next))
}

/// The number of the newest event.
pub(crate) fn newest() -> u64 {
    LOG.get_or_init(Mutex::default).lock().last
}

pub(crate) struct Signal {
    pub(crate) receivers: Py<PyDict>,
    /// Called if there are receivers: some may listen to other apps only.
    pub(crate) listens: Py<PyAny>,
    /// Called as `send(future=future)`.
    pub(crate) send: Py<PyAny>,
}

/// An executor's signals. The garbage collector does not see them, so they must refer to nothing
/// that refers to the executor.
pub(crate) struct Signals(pub(crate) [Signal; SIGNALS]);
