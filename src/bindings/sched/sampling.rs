//! Takes the samples of an executor: one a second on the timer's thread while anything happens, none
//! while nothing does.

use std::sync::Arc;
use std::time::Duration;

use flask_delay_journal::{Sample, Vitals};

use super::timer;
use crate::bindings::core::executor::Core;
use crate::bindings::core::link::Link;
use crate::bindings::core::samples::{Levels, Row, Samples};
use crate::bindings::core::settings::Mode;
use crate::bindings::ffi::clock::now;

const SECOND: u64 = 1_000_000_000;
/// After the end of a second: what ends at its very end is counted by then.
const LATE: u64 = 2_000_000;

/// A task is submitted, starts or is cancelled.
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
            let is_busy = take(core, samples, now().saturating_sub(SECOND / 2));
            tell(core, samples);
            if is_busy && samples.wake() {
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
    let levels = levels(core);
    let tells = journal(core).is_some();
    let figures = core.figures();
    figures.is_some_and(|figures| samples.take(figures, time / SECOND, levels, tells))
}

fn levels(core: &Arc<Core>) -> Levels {
    let stats = core.pool().stats();
    let running = stats.threads.saturating_sub(stats.idle + stats.waiting);
    Levels {
        queued: number(stats.queued.saturating_sub(core.uncounted().get())),
        held: number(core.held().len()),
        running: number(running + core.on_loop().len()),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The journal, if it is told of all tasks.
fn journal(core: &Arc<Core>) -> Option<Arc<Link>> {
    core.journal().filter(|link| link.publishes())
}

/// Tells the journal of the last sample.
fn tell(core: &Arc<Core>, samples: &Samples) {
    let Some(link) = journal(core) else {
        return;
    };
    let (at, names) = samples.untold();
    let names = names.into_iter();
    let Levels {
        queued,
        held,
        running,
    } = levels(core);
    let is_main = link.core().is_some_and(|main| Arc::ptr_eq(&main, core));
    let stats = core.pool().stats();
    let vitals = Vitals {
        about: link.about(),
        threads: [
            number(stats.threads),
            number(stats.threads.saturating_sub(stats.idle + stats.waiting)),
            number(stats.idle),
            number(stats.waiting),
            number(core.stuck().count()),
        ],
        memory: memory(),
    };
    let sample = Sample {
        at: at.cast_signed(),
        levels: [queued, held, running],
        names: names
            .map(|(name, it)| (name.into_string(), it.into_figures()))
            .collect(),
        // A pool beside that one, of child processes, belongs to the same process.
        vitals: is_main.then_some(vitals),
    };
    link.tell(|journal| journal.sample(sample));
}

/// The bytes of memory that this process has, where the system tells.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let size: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(size * 1024)
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
