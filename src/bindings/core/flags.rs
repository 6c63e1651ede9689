//! Flags of a task, in one word with its phase.

use flask_delay_engine::TaskState;

use super::async_check::Form;
use super::task::Task;

/// The task was told to stop.
const STOP: u32 = TaskState::MARK;
/// The task does not wait in the queue: it is a coroutine, is held, or was taken out.
const UNQUEUED: u32 = TaskState::MARK << 1;
/// The task is a coroutine.
const COROUTINE: u32 = TaskState::MARK << 2;
/// A teardown function has submitted the task, after another task.
const OF_TEARDOWN: u32 = TaskState::MARK << 3;
/// The task's arguments are packed.
const PACKED: u32 = TaskState::MARK << 4;
/// The task holds a permit of a queue with limited size.
const PLACED: u32 = TaskState::MARK << 5;
/// The task has rules, see [`super::policy`].
const RULED: u32 = TaskState::MARK << 6;
/// The task has an app context that is not that of its callbacks.
const OWN_SCOPE: u32 = TaskState::MARK << 7;
/// The coroutine of the task has begun and has not ended, in any phase: after a cancellation it
/// cleans up.
const GOES_ON: u32 = TaskState::MARK << 8;
/// Another process ended the task, or will: its signals and its figures are that process's.
const ENDED_ELSEWHERE: u32 = TaskState::MARK << 9;
/// The task has a row in a journal: it is durable, or was published.
const JOURNALED: u32 = TaskState::MARK << 10;
/// The time of the task's coroutine is over, and the future ends without it.
const OVERDUE: u32 = TaskState::MARK << 11;
/// The function of the task is a generator function.
const YIELDS: u32 = TaskState::MARK << 12;

impl Task {
    /// That of a pending task, with its arguments packed or not.
    pub(crate) fn new_state(is_packed: bool) -> TaskState {
        let state = TaskState::new();
        if is_packed {
            state.mark(PACKED);
        }
        state
    }

    pub(crate) fn told_to_stop(&self) -> bool {
        self.state.has(STOP)
    }

    pub(crate) fn is_coroutine(&self) -> bool {
        self.state.has(COROUTINE)
    }

    pub(crate) fn yields(&self) -> bool {
        self.state.has(YIELDS)
    }

    pub(crate) fn is_told_to_stop_or_yields(&self) -> bool {
        self.state.has(STOP | YIELDS)
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.state.has(PACKED)
    }

    pub(crate) fn is_of_teardown(&self) -> bool {
        self.state.has(OF_TEARDOWN)
    }

    pub(crate) fn is_placed(&self) -> bool {
        self.state.has(PLACED)
    }

    pub(crate) fn is_ruled(&self) -> bool {
        self.state.has(RULED)
    }

    pub(crate) fn is_placed_or_ruled(&self) -> bool {
        self.state.has(PLACED | RULED)
    }

    pub(crate) fn has_own_scope(&self) -> bool {
        self.state.has(OWN_SCOPE)
    }

    /// Whether the task keeps more than its call for another attempt.
    pub(crate) fn keeps_more(&self) -> bool {
        self.state.has(OWN_SCOPE | RULED)
    }

    pub(crate) fn goes_on(&self) -> bool {
        self.state.has(GOES_ON)
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.state.has(OVERDUE)
    }

    pub(crate) fn mark_overdue(&self) {
        self.state.mark(OVERDUE);
    }

    /// Called by the event loop when an attempt begins.
    pub(crate) fn begin_code(&self) {
        self.state.mark(GOES_ON);
    }

    /// Called by `limits::end_code`.
    pub(crate) fn end_code(&self) {
        let _ = self.state.unmark(GOES_ON);
    }

    pub(crate) fn ended_elsewhere(&self) -> bool {
        self.state.has(ENDED_ELSEWHERE)
    }

    pub(crate) fn is_journaled(&self) -> bool {
        self.state.has(JOURNALED)
    }

    /// Called after the rules of the task have the journal.
    pub(crate) fn mark_journaled(&self) {
        self.state.mark(JOURNALED);
    }

    /// Called before the task is ended.
    pub(crate) fn mark_ended_elsewhere(&self) {
        self.state.mark(ENDED_ELSEWHERE);
    }

    /// For a future that is not shared yet.
    pub(crate) fn mark_own_scope(&self) {
        self.state.mark(OWN_SCOPE);
    }

    /// For a future that is not shared yet.
    pub(crate) fn mark_placed(&self) {
        self.state.mark(PLACED);
    }

    /// Called by the task's submitter, or by the thread that runs it.
    pub(crate) fn mark_ruled(&self) {
        self.state.mark(RULED);
    }

    /// Returns the permit of the queue, if the task holds one.
    pub(crate) fn give_place(&self) {
        if self.is_placed()
            && self.state.unmark(PLACED)
            && let Some(places) = self.core().and_then(|core| core.places())
        {
            places.give();
        }
    }

    pub(crate) fn tell_to_stop(&self) {
        // A request, which the task may read at any time.
        self.state.mark(STOP);
    }

    /// For a future that is not shared yet.
    pub(crate) fn mark_coroutine(&self) {
        self.state.mark(COROUTINE | UNQUEUED);
    }

    /// For a future that is not shared yet.
    #[cold]
    pub(crate) fn mark_form(&self, form: Form) {
        if form.is_async() {
            self.mark_coroutine();
        }
        if form.yields() {
            self.state.mark(YIELDS);
        }
    }

    /// For a future that is not shared yet.
    pub(crate) fn mark_of_teardown(&self) {
        self.state.mark(OF_TEARDOWN);
    }

    /// Called before the task is put into the queue.
    pub(crate) fn enter_queue(&self) {
        let _ = self.state.unmark(UNQUEUED);
    }

    /// Called when the task is held, has ended, or was taken out of the queue. Returns `true` to
    /// only one caller, if the task was waiting there.
    pub(crate) fn leave_queue(&self) -> bool {
        self.state.mark_first(UNQUEUED)
    }
}
