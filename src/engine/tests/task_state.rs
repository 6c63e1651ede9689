//! The phases of a job, one thread at a time.
#![cfg(not(loom))]

use flask_delay_engine::{Advance, Mutex, Phase, TaskState};

const MARK: u32 = TaskState::MARK;
const OTHER: u32 = TaskState::MARK << 1;

#[test]
fn a_mark_is_taken_away_once() {
    let state = TaskState::new();
    assert!(!state.unmark(MARK));
    state.mark(MARK);
    state.mark(OTHER);
    assert!(state.unmark(MARK));
    assert!(!state.has(MARK));
    assert!(!state.unmark(MARK));
    assert!(state.has(OTHER));
    assert_eq!(state.phase(), Phase::Pending);
}

#[test]
fn a_job_may_be_begun_again() {
    let state = TaskState::new();
    state.mark(MARK);
    assert!(!state.again());
    assert!(state.start());
    assert!(state.again());
    assert_eq!(state.phase(), Phase::Pending);
    assert!(state.has(MARK));
    assert!(!state.again());
    assert!(state.start());
    assert_eq!(
        state.advance(Phase::Running, Phase::Finished),
        Advance::Done
    );
    assert!(!state.again());
    assert_eq!(state.phase(), Phase::Finished);
}

#[test]
fn who_watches_stays_when_a_job_is_begun_again() {
    let (state, extra) = (TaskState::new(), Mutex::new(0));
    assert!(state.start());
    assert!(state.leave(&extra, |extra| *extra += 1));
    assert!(state.again());
    assert_eq!(
        state.advance(Phase::Pending, Phase::Notified),
        Advance::Watched
    );
}

#[test]
fn a_job_that_was_put_back_may_be_cancelled() {
    let state = TaskState::new();
    assert!(state.start() && state.again());
    assert_eq!(
        state.advance(Phase::Pending, Phase::Cancelled),
        Advance::Done
    );
    assert!(!state.start());
}
