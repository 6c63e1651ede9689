//! The last days of a process in steps, for plots: what ended in each, how much waited and ran.
//!
//! A sample counts what has come since the one before it, so nothing is added to the path of a task.
//! Steps without a sample are not kept: nothing ended there, and what waited or ran stayed the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use flask_delay_engine::Mutex;
use flask_delay_journal::Histogram;

use super::metrics::{self, Counts, Metrics, Names, OfName};

/// The seconds of a step, which is a point of a plot, and how many of them are kept: 15 minutes, 6
/// hours, 7 days.
const STEPS: [(u64, usize); 3] = [(5, 180), (120, 180), (3_600, 168)];
/// Seconds that a sample may come after one of a later second.
const LATE: u64 = 2;
/// The minutes whose ends are kept by name.
const MINUTES: usize = 30;

/// The samples of one process. The lock is a leaf.
#[derive(Default)]
pub(crate) struct Samples {
    is_awake: AtomicBool,
    record: Mutex<Record>,
}

/// What there is at a moment: tasks in the queue, those that wait for something else, and those that
/// run.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) queued: u32,
    pub(crate) held: u32,
    pub(crate) running: u32,
}

#[derive(Default)]
struct Record {
    /// The figures at the last sample.
    seen: Names,
    /// The second of the last sample.
    at: u64,
    levels: Levels,
    lines: [Line; 3],
    /// What the journal has not been told.
    untold: Names,
    /// The ends of the last minutes by name, each with its minute.
    minutes: BTreeMap<Box<str>, VecDeque<(u64, u32)>>,
}

/// The steps of one length.
#[derive(Default)]
struct Line {
    kept: VecDeque<Step>,
    open: Option<Open>,
}

/// The step that goes on.
#[derive(Default)]
struct Open {
    at: u64,
    counts: Counts,
    /// The most that there were at once.
    levels: Levels,
    /// At the last sample.
    last: Levels,
    wait: Histogram,
    run: Histogram,
}

/// A step that is over.
#[derive(Clone, Copy)]
struct Step {
    at: u64,
    counts: [u32; 2],
    levels: Levels,
    /// At its end.
    last: Levels,
    times: [Option<[f32; 2]>; 2],
}

/// A step: its first second since 1970; how many tasks were done and failed in it; the most that
/// were queued, held and running at once; the median and the 95th percentile of waits, and of runs.
pub(crate) type Row = (u64, [u32; 2], [u32; 3], [Option<[f64; 2]>; 2]);

impl Samples {
    /// Whether it was asleep. The caller sees to the next sample then.
    pub(crate) fn wake(&self) -> bool {
        // Relaxed, here and below: no data depends on it. A start that a sampler misses which is
        // about to fall asleep is in the sample that the next start, or a reader, sees to.
        !self.is_awake.load(Ordering::Relaxed) && !self.is_awake.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn fall_asleep(&self) {
        self.is_awake.store(false, Ordering::Relaxed);
    }

    /// Takes a sample for a second; whether anything has happened, or goes on.
    pub(crate) fn take(&self, figures: &Metrics, at: u64, levels: Levels, tells: bool) -> bool {
        self.record.lock().take(figures, at, levels, tells)
    }

    /// What the journal has not been told: the second of the last sample, and what has come.
    pub(crate) fn untold(&self) -> (u64, Names) {
        let mut record = self.record.lock();
        (record.at, std::mem::take(&mut record.untold))
    }

    /// The steps of a length in seconds, up to `now`. Those around a time without samples are there.
    pub(crate) fn read(&self, seconds: u64, now: u64) -> Vec<Row> {
        let record = self.record.lock();
        let lines = record.lines.iter().zip(STEPS);
        let line = lines.clone().find(|(_, (step, _))| *step == seconds);
        line.map_or_else(Vec::new, |(line, (step, most))| {
            line.read(step, now - now % step, step * most as u64)
        })
    }

    /// How many tasks ended in each of the last minutes, up to `last`, by name.
    pub(crate) fn minutes(&self, last: u64) -> Vec<(String, Vec<u32>)> {
        let record = self.record.lock();
        let of = |ends: &VecDeque<(u64, u32)>| {
            let mut counts = vec![0; MINUTES];
            for (minute, count) in ends {
                let age = last.checked_sub(*minute);
                let age = age.and_then(|age| usize::try_from(age).ok());
                if let Some(place) = age.and_then(|age| (MINUTES - 1).checked_sub(age)) {
                    counts[place] = *count;
                }
            }
            counts
        };
        let lines = record.minutes.iter();
        lines
            .map(|(name, ends)| (name.to_string(), of(ends)))
            .collect()
    }
}

impl Record {
    fn take(&mut self, figures: &Metrics, at: u64, levels: Levels, tells: bool) -> bool {
        // A reader's sample may be of a later second than that which ends meanwhile.
        let at = if at + LATE >= self.at {
            at.max(self.at)
        } else {
            at
        };
        if at < self.at {
            // The clock was set back: what was later than now would stand in the way.
            self.lines = Default::default();
            self.minutes.clear();
        }
        let mut all = OfName::default();
        let (minutes, untold) = (&mut self.minutes, &mut self.untold);
        figures.since(&mut self.seen, |name, new| {
            all.add(new);
            if tells {
                untold.entry(name.into()).or_default().add(new);
            }
            note(minutes, name, at / 60, new.counts.ended());
        });
        let is_new = all.counts != Counts::default() || levels != self.levels;
        if is_new || self.at == 0 {
            for (line, (step, most)) in self.lines.iter_mut().zip(STEPS) {
                line.add(at - at % step, &all, self.levels, levels, most);
            }
        }
        (self.at, self.levels) = (at, levels);
        is_new || levels.queued > 0 || levels.running > 0
    }
}

fn note(minutes: &mut BTreeMap<Box<str>, VecDeque<(u64, u32)>>, name: &str, at: u64, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let ends = match minutes.get_mut(name) {
        Some(ends) => ends,
        None => minutes.entry(name.into()).or_default(),
    };
    match ends.back_mut() {
        Some((minute, before)) if *minute == at => *before = before.saturating_add(count),
        _ => ends.push_back((at, count)),
    }
    if ends.len() > MINUTES {
        ends.pop_front();
    }
}

impl Line {
    fn add(&mut self, at: u64, new: &OfName, before: Levels, levels: Levels, most: usize) {
        if self.open.as_ref().is_some_and(|open| open.at != at) {
            let open = self.open.take().unwrap_or_default();
            if self.kept.len() + 1 >= most {
                self.kept.pop_front();
            }
            self.kept.push_back(open.step());
        }
        let open = self.open.get_or_insert_with(|| Open {
            at,
            levels: before,
            ..Open::default()
        });
        open.counts.add(new.counts);
        open.wait.add(&new.wait);
        open.run.add(&new.run);
        open.levels = open.levels.most(levels);
        open.last = levels;
    }

    fn read(&self, step: u64, now: u64, span: u64) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.kept.len() + 3);
        let open = self.open.as_ref().map(Open::step);
        let begin = (now + step).saturating_sub(span);
        let mut before: Option<Step> = None;
        let all = self.kept.iter().copied().chain(open);
        for next in all.filter(|step| step.at <= now) {
            if next.at >= begin {
                if let Some(before) = before {
                    bridge(&mut rows, before, next.at, begin, step);
                }
                rows.push(next.row());
            }
            before = Some(next);
        }
        if let Some(before) = before {
            bridge(&mut rows, before, now + step, begin, step);
        }
        rows
    }
}

/// Adds the first and the last step of the time between two that have samples.
fn bridge(rows: &mut Vec<Row>, before: Step, next: u64, begin: u64, step: u64) {
    let (first, last) = ((before.at + step).max(begin), next - step);
    for at in [first, last] {
        if before.at < at && at < next && rows.last().is_none_or(|row| row.0 < at) {
            rows.push(Step::quiet(at, before.last).row());
        }
    }
}

impl Open {
    fn step(&self) -> Step {
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "they have two significant digits"
        )]
        let short = |times| metrics::typical(times).map(|it| it.map(|seconds| seconds as f32));
        Step {
            at: self.at,
            counts: [
                count(self.counts.done),
                count(self.counts.failed + self.counts.dead),
            ],
            levels: self.levels,
            last: self.last,
            times: [short(&self.wait), short(&self.run)],
        }
    }
}

impl Step {
    /// A step in which nothing changed.
    fn quiet(at: u64, levels: Levels) -> Self {
        Self {
            at,
            counts: [0; 2],
            levels,
            last: levels,
            times: [None; 2],
        }
    }

    fn row(self) -> Row {
        let Levels {
            queued,
            held,
            running,
        } = self.levels;
        // To a microsecond, as it was before it was shortened.
        let long = |seconds: f32| (f64::from(seconds) * 1e6).round() / 1e6;
        let times = self.times.map(|pair| pair.map(|it| it.map(long)));
        (self.at, self.counts, [queued, held, running], times)
    }
}

impl Levels {
    fn most(self, other: Self) -> Self {
        Self {
            queued: self.queued.max(other.queued),
            held: self.held.max(other.held),
            running: self.running.max(other.running),
        }
    }
}
