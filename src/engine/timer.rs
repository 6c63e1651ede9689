//! A heap of entries, and a thread that hands them out when they are due.

use std::io;
use std::time::Instant;

use log::{debug, warn};

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, spawn, wait};
use crate::timer_heap::{Ticket, TimerHeap};

/// A heap and one thread that hands out what is due. The thread starts at the first [`Timer::add`]
/// and sleeps while nothing is due.
///
/// Dropping the timer stops it and drops its entries.
pub struct Timer<E: Send + 'static> {
    shared: Arc<Shared<E>>,
}

struct Shared<E> {
    name: String,
    stack_size: usize,
    fire: Box<dyn Fn(Vec<E>) + Send + Sync>,
    desk: Mutex<Desk<E>>,
    /// Notified when the thread must look at the heap before its time.
    alarm: Condvar,
    /// Notified when the thread has left.
    left: Condvar,
}

struct Desk<E> {
    heap: TimerHeap<E>,
    sleep: Sleep,
    /// There is a thread, or it has not ended yet.
    staffed: bool,
    stopped: bool,
}

/// The state of the thread, or the one to which it was woken.
enum Sleep {
    /// It looks at the heap before it sleeps.
    Awake,
    /// It sleeps until that time.
    Until(Instant),
    /// It sleeps until it is woken.
    Sound,
}

impl<E> Desk<E> {
    /// Whether the thread must be woken to be in time; then it counts as woken.
    fn oversleeps(&mut self, at: Instant) -> bool {
        let oversleeps = match self.sleep {
            Sleep::Awake => false,
            Sleep::Until(wakes) => at < wakes,
            Sleep::Sound => true,
        };
        if oversleeps {
            self.sleep = Sleep::Awake;
        }
        oversleeps
    }
}

impl<E: Send + 'static> Timer<E> {
    /// A timer with a thread called `name`, which hands what is due to `fire`, in order. `fire` is
    /// called without a lock; while it runs nothing else is handed out.
    #[must_use]
    pub fn new(
        name: String,
        stack_size: usize,
        fire: impl Fn(Vec<E>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                stack_size,
                fire: Box::new(fire),
                desk: Mutex::new(Desk {
                    heap: TimerHeap::new(),
                    sleep: Sleep::Awake,
                    staffed: false,
                    stopped: false,
                }),
                alarm: Condvar::new(),
                left: Condvar::new(),
            }),
        }
    }

    /// Whether [`Timer::stop`] was called.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.shared.desk.lock().stopped
    }

    /// Starts the thread if there is none, so that [`Timer::add`] cannot fail for want of one.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or the timer was stopped.
    pub fn ready(&self) -> io::Result<()> {
        let shared = &self.shared;
        let mut desk = shared.desk.lock();
        if desk.stopped {
            return Err(stopped());
        }
        if desk.staffed {
            return Ok(());
        }
        shared.start(&mut desk)?;
        drop(desk);
        shared.tell_of_start();
        Ok(())
    }

    /// Hands out `entry` as soon as it is `at`.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started, or the timer was stopped: the entry, given back.
    pub fn add(&self, at: Instant, entry: E) -> Result<Ticket, (E, io::Error)> {
        let shared = &self.shared;
        let mut desk = shared.desk.lock();
        if desk.stopped {
            return Err((entry, stopped()));
        }
        let starts = !desk.staffed;
        // Under the lock, so that no other entry counts on a thread that does not start.
        if starts && let Err(error) = shared.start(&mut desk) {
            return Err((entry, error));
        }
        let ticket = desk.heap.add(at, entry);
        let call = desk.oversleeps(at);
        drop(desk);
        if call {
            shared.alarm.notify_one();
        }
        if starts {
            shared.tell_of_start();
        }
        Ok(ticket)
    }

    /// Takes an entry back; `None` if it was handed out, or is about to be.
    #[must_use]
    pub fn cancel(&self, ticket: Ticket) -> Option<E> {
        // The thread sleeps on: one wake-up in vain costs less than a wake-up for each call.
        self.shared.desk.lock().heap.remove(ticket)
    }

    /// Returns the remaining entries, takes no more, and ends the thread once `fire` returns.
    #[must_use]
    pub fn stop(&self) -> Vec<E> {
        let mut desk = self.shared.desk.lock();
        desk.stopped = true;
        let entries = desk.heap.drain();
        drop(desk);
        self.shared.alarm.notify_one();
        entries
    }

    /// Waits until a stopped timer has no thread; `false` when `deadline` came first. Not for
    /// `fire`, which would wait for itself.
    #[must_use]
    pub fn join(&self, deadline: Option<Instant>) -> bool {
        let mut desk = self.shared.desk.lock();
        while desk.staffed {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            desk = wait(&self.shared.left, desk, deadline);
        }
        true
    }
}

impl<E: Send + 'static> Drop for Timer<E> {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

impl<E: Send + 'static> Shared<E> {
    fn start(self: &Arc<Self>, desk: &mut Desk<E>) -> io::Result<()> {
        let shared = Arc::clone(self);
        spawn(self.name.clone(), self.stack_size, move || {
            let keeper = Keeper(shared);
            keeper.keep();
        })?;
        desk.staffed = true;
        desk.sleep = Sleep::Awake;
        Ok(())
    }

    fn tell_of_start(&self) {
        debug!(target: "flask_delay::engine", "thread {} started", self.name);
    }
}

fn stopped() -> io::Error {
    io::Error::other("the timer has stopped")
}

/// The thread. Dropping it also counts the thread as gone when `fire` panics.
struct Keeper<E: Send + 'static>(Arc<Shared<E>>);

impl<E: Send + 'static> Keeper<E> {
    fn keep(&self) {
        while let Some(due) = self.due() {
            (self.0.fire)(due);
        }
    }

    /// Sleeps until something is due, and takes it; `None` when the timer was stopped.
    fn due(&self) -> Option<Vec<E>> {
        let mut desk = self.0.desk.lock();
        while !desk.stopped {
            let due = desk.heap.due(Instant::now());
            if !due.is_empty() {
                return Some(due);
            }
            desk = self.sleep(desk);
        }
        None
    }

    fn sleep<'a>(&'a self, mut desk: MutexGuard<'a, Desk<E>>) -> MutexGuard<'a, Desk<E>> {
        let next = desk.heap.next();
        desk.sleep = next.map_or(Sleep::Sound, Sleep::Until);
        let mut desk = wait(&self.0.alarm, desk, next);
        desk.sleep = Sleep::Awake;
        desk
    }
}

impl<E: Send + 'static> Drop for Keeper<E> {
    fn drop(&mut self) {
        let shared = &self.0;
        let mut desk = shared.desk.lock();
        desk.staffed = false;
        // `fire` may have panicked: another thread takes the remaining entries, or the next `add`
        // starts one.
        let replaced = if desk.heap.is_empty() {
            Ok(())
        } else {
            shared.start(&mut desk)
        };
        drop(desk);
        shared.left.notify_all();
        if let Err(error) = replaced {
            let name = &shared.name;
            warn!(target: "flask_delay::engine", "thread {name} could not be started: {error}");
        }
    }
}
