//! The items of a generator task: the newest ones, numbered from 1, for any number of readers.
//!
//! A stream is in the `Extra` of its task, under the lock of that, which the end of the task takes
//! too. So no item comes after the end, and a reader that goes to sleep misses neither the next
//! item nor the end. The lock is held only to move references: objects are dropped, readers woken
//! and functions called after it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, PyVisit};

use super::policy;
use super::task::Task;
use super::waiter::Waiter;
use crate::bindings::errors::or_unraisable;
use crate::bindings::ffi::call::call_with;

/// What a stream keeps at most; the newest item in any case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            items: 1_000,
            bytes: 1_000_000,
        }
    }
}

/// What a generator has yielded.
pub(crate) struct Item {
    object: Py<PyAny>,
    bytes: usize,
    attempt: u32,
}

static SIZE_OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Called once, when the module is loaded.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let size_of = py.import("sys")?.getattr("getsizeof")?;
    let _ = SIZE_OF.set(py, size_of.unbind());
    Ok(())
}

impl Item {
    /// # Errors
    ///
    /// What the object's `__sizeof__` raises.
    pub(crate) fn new(this: &Bound<'_, Task>, object: Bound<'_, PyAny>) -> PyResult<Self> {
        let py = this.py();
        let bytes = match SIZE_OF.get(py) {
            Some(size_of) => call_with(size_of.bind(py), [&object])?.extract()?,
            None => 0,
        };
        Ok(Self {
            object: object.unbind(),
            bytes,
            attempt: policy::attempts(this.get()).unwrap_or(1),
        })
    }
}

/// How far one reader is. Read and written under the lock, so `Relaxed` is enough everywhere.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The number of its last item.
    last: AtomicU64,
    /// The attempt that has given that item.
    attempt: AtomicU32,
    /// The generator has waited for it in vain, and waits no more until it reads again.
    left_behind: AtomicBool,
}

impl Reader {
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }
}

/// What is told of a change, once.
pub(crate) enum Sleeper {
    /// A thread; its entry in the graph of waits ends with it, before the thread that wakes it goes
    /// on and perhaps waits for that one.
    Thread(Arc<Waiter>, Option<Box<dyn Any + Send>>),
    /// A function, called with the future; it must not block.
    Function(Py<PyAny>),
}

impl Sleeper {
    pub(crate) fn wake(self, this: &Bound<'_, Task>) {
        match self {
            Self::Thread(waiter, entered) => {
                drop(entered);
                waiter.ring();
            }
            Self::Function(function) => {
                let function = function.bind(this.py());
                or_unraisable(call_with(function, [this.as_any()]).map(drop), this);
            }
        }
    }

    fn is_thread(&self, waiter: &Arc<Waiter>) -> bool {
        matches!(self, Self::Thread(own, _) if Arc::ptr_eq(own, waiter))
    }

    fn is_function(&self, function: &Bound<'_, PyAny>) -> bool {
        matches!(self, Self::Function(own) if own.is(function))
    }
}

/// The items of one task. Its lock is that of the task's `Extra`.
#[derive(Default)]
pub(crate) struct Stream {
    kept: VecDeque<Item>,
    bytes: usize,
    /// How many are no longer kept; the oldest kept one has the number after it.
    dropped: u64,
    readers: Vec<Arc<Reader>>,
    /// Woken in this order.
    asleep: Vec<Sleeper>,
    /// The generator, which waits for a reader that is behind.
    held: Option<Sleeper>,
}

impl Stream {
    fn count(&self) -> u64 {
        self.dropped + self.kept.len() as u64
    }

    /// How many items must go before one of this size comes.
    fn excess(&self, bytes: usize, bounds: Bounds) -> usize {
        let mut left = self.bytes;
        let mut excess = 0;
        for item in &self.kept {
            let is_full = self.kept.len() - excess >= bounds.items
                || left.saturating_add(bytes) > bounds.bytes;
            if !is_full {
                break;
            }
            left -= item.bytes;
            excess += 1;
        }
        excess
    }

    /// Whether a reader still needs one of the `excess` oldest items.
    fn is_needed(&self, excess: usize) -> bool {
        let last = self.dropped + excess as u64;
        let behind = |reader: &Arc<Reader>| {
            reader.last() < last && !reader.left_behind.load(Ordering::Relaxed)
        };
        excess > 0 && self.readers.iter().any(behind)
    }

    /// Adds an item; returns those that are dropped for it.
    fn put(&mut self, item: Item, bounds: Bounds) -> Vec<Item> {
        let excess = self.excess(item.bytes, bounds);
        let dropped: Vec<_> = self.kept.drain(..excess).collect();
        self.dropped += excess as u64;
        self.bytes -= dropped.iter().map(|item| item.bytes).sum::<usize>();
        for reader in &self.readers {
            if reader.last() < self.dropped {
                reader.left_behind.store(true, Ordering::Relaxed);
            }
        }
        self.bytes += item.bytes;
        self.kept.push_back(item);
        dropped
    }

    fn take(&mut self, py: Python<'_>, reader: &Reader) -> Taken {
        let last = reader.last();
        reader.left_behind.store(false, Ordering::Relaxed);
        if last < self.dropped {
            reader.last.store(self.dropped, Ordering::Relaxed);
            return Taken::Lagged {
                missed: self.dropped - last,
                oldest: self.dropped + 1,
            };
        }
        let place = usize::try_from(last - self.dropped).unwrap_or(usize::MAX);
        let Some(item) = self.kept.get(place) else {
            return Taken::Nothing;
        };
        reader.last.store(last + 1, Ordering::Relaxed);
        reader.attempt.store(item.attempt, Ordering::Relaxed);
        Taken::Item(item.object.clone_ref(py))
    }

    /// Those to wake at the end of the task.
    pub(crate) fn take_sleepers(&mut self) -> Vec<Sleeper> {
        let mut asleep = std::mem::take(&mut self.asleep);
        asleep.extend(self.held.take());
        asleep
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for item in &self.kept {
            visit.call(&item.object)?;
        }
        for sleeper in self.asleep.iter().chain(&self.held) {
            if let Sleeper::Function(function) = sleeper {
                visit.call(function)?;
            }
        }
        Ok(())
    }
}

/// The answer to a reader.
pub(crate) enum Taken {
    Item(Py<PyAny>),
    /// Its next items are no longer kept. It goes on with the oldest that is.
    Lagged {
        missed: u64,
        oldest: u64,
    },
    /// There is no item for it yet.
    Nothing,
}

/// The answer to a generator.
pub(crate) enum Pushed {
    Yes,
    /// A reader is behind: `wait` is woken when that has changed.
    Held(Item),
    /// The task has ended, and takes no more items.
    Ended,
}

/// Gives an item to the readers. With `wait`, unless a reader that is behind would miss one for it.
pub(crate) fn push(
    this: &Bound<'_, Task>,
    item: Item,
    bounds: Bounds,
    wait: Option<Sleeper>,
) -> Pushed {
    let cell = this.get();
    let mut item = Some(item);
    let mut wait = wait;
    let mut dropped = Vec::new();
    let mut asleep = Vec::new();
    let open = cell.leave(|extra| {
        let stream = extra.stream.get_or_insert_default();
        let bytes = item.as_ref().map_or(0, |item| item.bytes);
        if wait.is_some() && stream.is_needed(stream.excess(bytes, bounds)) {
            std::mem::swap(&mut stream.held, &mut wait);
            return;
        }
        if let Some(item) = item.take() {
            dropped = stream.put(item, bounds);
        }
        asleep = std::mem::take(&mut stream.asleep);
    });
    drop((dropped, wait));
    for sleeper in asleep {
        sleeper.wake(this);
    }
    match item {
        None => Pushed::Yes,
        Some(item) if open => Pushed::Held(item),
        Some(_) => Pushed::Ended,
    }
}

/// Lets a generator that waits for a reader look again.
pub(crate) fn let_go_on(this: &Bound<'_, Task>) {
    let held = this.get().known_extra().and_then(|extra| {
        let mut extra = extra.lock();
        extra.stream.as_mut()?.held.take()
    });
    if let Some(held) = held {
        held.wake(this);
    }
}

/// Tells a running task to stop; a generator that waits for a reader does so at once.
pub(crate) fn tell_to_stop(this: &Bound<'_, Task>) {
    this.get().tell_to_stop();
    let_go_on(this);
}

/// A new reader of the items after number `after`; the number of the last item if that is less.
pub(crate) fn read(this: &Bound<'_, Task>, after: u64) -> Result<Arc<Reader>, u64> {
    let reader = Arc::new(Reader {
        last: AtomicU64::new(after),
        ..Reader::default()
    });
    let mut extra = this.get().extra().lock();
    let stream = extra.stream.get_or_insert_default();
    if after > stream.count() {
        return Err(stream.count());
    }
    stream.readers.push(Arc::clone(&reader));
    Ok(reader)
}

/// Forgets a reader.
pub(crate) fn leave(this: &Bound<'_, Task>, reader: &Arc<Reader>) {
    if let Some(extra) = this.get().known_extra()
        && let Some(stream) = &mut extra.lock().stream
    {
        stream.readers.retain(|it| !Arc::ptr_eq(it, reader));
    }
    let_go_on(this);
}

/// The next item for a reader.
pub(crate) fn take(this: &Bound<'_, Task>, reader: &Reader) -> Taken {
    let taken = this.get().known_extra().and_then(|extra| {
        let mut extra = extra.lock();
        let stream = extra.stream.as_mut()?;
        let taken = stream.take(this.py(), reader);
        Some((taken, stream.held.take()))
    });
    let Some((taken, held)) = taken else {
        return Taken::Nothing;
    };
    if let Some(held) = held {
        held.wake(this);
    }
    taken
}

/// Wakes `sleeper` when there is something for the reader: an item, or the end of the task. `false`
/// if that is there already.
pub(crate) fn sleep(this: &Bound<'_, Task>, reader: &Reader, sleeper: Sleeper) -> bool {
    let mut sleeper = Some(sleeper);
    let open = this.get().leave(|extra| {
        let stream = extra.stream.get_or_insert_default();
        if reader.last() >= stream.count() {
            stream.asleep.extend(sleeper.take());
        }
    });
    open && sleeper.is_none()
}

/// Forgets a thread that has woken by itself.
pub(crate) fn forget(this: &Bound<'_, Task>, waiter: &Arc<Waiter>) {
    forget_if(this, |sleeper| sleeper.is_thread(waiter));
}

/// Forgets a function that need not be called any more.
pub(crate) fn forget_function(this: &Bound<'_, Task>, function: &Bound<'_, PyAny>) {
    forget_if(this, |sleeper| sleeper.is_function(function));
}

fn forget_if(this: &Bound<'_, Task>, is_it: impl Fn(&Sleeper) -> bool) {
    let found = this.get().known_extra().and_then(|extra| {
        let mut extra = extra.lock();
        let stream = extra.stream.as_mut()?;
        if stream.held.as_ref().is_some_and(&is_it) {
            return stream.held.take();
        }
        let place = stream.asleep.iter().position(is_it)?;
        Some(stream.asleep.remove(place))
    });
    drop(found);
}
