//! The FIFO of plain jobs: unbounded, many producers, many consumers.
//!
//! The channel of `crossbeam-channel` is lock-free and allocates a block for every 31 jobs. Only
//! its non-blocking calls are used: [`crate::pool`] parks and wakes threads, since it can release
//! the interpreter lock before.

#[cfg(not(loom))]
pub(crate) struct Fifo<J> {
    sender: crossbeam_channel::Sender<J>,
    receiver: crossbeam_channel::Receiver<J>,
}

#[cfg(not(loom))]
impl<J> Fifo<J> {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self { sender, receiver }
    }

    pub(crate) fn push(&self, job: J) {
        // Cannot fail: the channel is unbounded and `self` holds its receiver.
        let sent = self.sender.try_send(job);
        debug_assert!(sent.is_ok());
    }

    pub(crate) fn pop(&self) -> Option<J> {
        self.receiver.try_recv().ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }
}

/// The FIFO of the models. A Relaxed counter tells whether it is empty, which promises less than
/// the channel does: what the pool needs must come from its own fences.
#[cfg(loom)]
pub(crate) struct Fifo<J> {
    jobs: crate::sync::Mutex<std::collections::VecDeque<J>>,
    length: crate::sync::AtomicUsize,
}

#[cfg(loom)]
impl<J> Fifo<J> {
    pub(crate) fn new() -> Self {
        Self {
            jobs: crate::sync::Mutex::new(std::collections::VecDeque::new()),
            length: crate::sync::AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, job: J) {
        let mut jobs = self.jobs.lock();
        jobs.push_back(job);
        self.length.fetch_add(1, crate::sync::Ordering::Relaxed);
    }

    pub(crate) fn pop(&self) -> Option<J> {
        if self.is_empty() {
            return None;
        }
        let mut jobs = self.jobs.lock();
        let job = jobs.pop_front()?;
        self.length.fetch_sub(1, crate::sync::Ordering::Relaxed);
        Some(job)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.length.load(crate::sync::Ordering::Relaxed)
    }
}
