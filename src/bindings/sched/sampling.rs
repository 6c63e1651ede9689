//! Takes the samples of an executor: one a second on the timer's thread while anything happens, none
//! while nothing does.

use std::sync::Arc;
use std::time::Duration;

use super::timer;
use crate::bindings::core::executor::Core;
use crate::bindings::core::samples::{Levels, Row, Samples};
use crate::bindings::core::settings::Mode;
use crate::bindings::ffi::clock::now;

const SECOND: u64 = 1_000_000_000;
/// After the end of a second: what ends at its very end is counted by then.
const LATE: u64 = 2_000_000;

/// A task starts.
pub(crate) fn touch(core: &Arc<Core>) {
    if let Some(samples) = core.samples()
        && core.mode == Mode::Threads
        && samples.wake()
    {
        arm(core, samples);
    }
}

/// Has a sample taken at the end of this second.
fn arm(core: &Arc<Core>, samples: &Samples) {
    let rest = SECOND - now() % SECOND + LATE;
    let set = timer::set_in_for(Duration::from_nanos(rest), core, |_, core| {
        if let Some(samples) = core.samples() {
            // Before the look: a task that starts later has the next one taken.
            samples.fall_asleep();
            // Of the second that is over.
            if take(core, samples, now().saturating_sub(SECOND / 2)) && samples.wake() {
                arm(core, samples);
            }
        }
    });
    if set.is_err() {
        // The process ends, or has no thread for it: there are plots without it.
        samples.fall_asleep();
    }
}

fn take(core: &Arc<Core>, samples: &Samples, time: u64) -> bool {
    let stats = core.pool().stats();
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    let running = stats.threads.saturating_sub(stats.idle + stats.waiting);
    let levels = Levels {
        queued: number(stats.queued.saturating_sub(core.uncounted().get())),
        held: number(core.held().len()),
        running: number(running + core.on_loop().len()),
    };
    let figures = core.figures();
    figures.is_some_and(|figures| samples.take(figures, time / SECOND, levels))
}

/// The samples in steps of so many seconds, up to this moment.
pub(crate) fn read(core: &Arc<Core>, step: u64) -> Vec<Row> {
    let Some(samples) = core.samples() else {
        return Vec::new();
    };
    let time = now();
    take(core, samples, time);
    samples.read(step, time / SECOND)
}

/// How many tasks ended in each of the last 30 minutes, by name; the last one is not over.
pub(crate) fn minutes(core: &Arc<Core>) -> Vec<(String, Vec<u32>)> {
    let Some(samples) = core.samples() else {
        return Vec::new();
    };
    let time = now();
    take(core, samples, time);
    samples.minutes(time / SECOND / 60)
}
