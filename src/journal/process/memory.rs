//! What the writer thread knows without asking the file.

use std::collections::{HashMap, HashSet};

use crate::api::{Claim, Pool};
use crate::process::permits::Permits;
use crate::shared::answer::Answer;
use crate::shared::counted::Counted;

/// Claims of different files differ in their upper bits: see `Memory::sign`.
const ERA: u32 = 40;

/// A task that this process runs.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct Running {
    pub epoch: i64,
    pub pool: Pool,
    pub is_suspect: bool,
    /// Whether it has a limit or a rate.
    pub is_limited: bool,
    /// Whether this process wants to hear of its end if another one has it then.
    pub is_watched: bool,
    /// Whether it was told to stop.
    pub is_told: bool,
}

/// Why a task is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// This process has submitted it: no more when it runs here.
    Implied,
    /// Somebody has asked: until it ends, wherever it runs.
    Asked,
}

/// A watched task.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub why: Watch,
    pub id: String,
}

impl Watched {
    pub(crate) fn implied(id: String) -> Self {
        Self {
            why: Watch::Implied,
            id,
        }
    }
}

#[derive(Default)]
pub(crate) struct Memory {
    pub slot: Option<i64>,
    /// When this process got its slot: so it is told from another one's of the same number.
    pub since: i64,
    pub application: Option<i64>,
    pub functions: HashMap<String, i64>,
    /// The functions that this process can run.
    pub known: HashSet<i64>,
    /// Tasks of these that it could not run, and has parked.
    pub tried: HashSet<i64>,
    /// Whether this process is to claim, and whether it does in this file.
    pub wants_claims: bool,
    pub claims: bool,
    pub running: HashMap<i64, Running>,
    pub watched: HashMap<i64, Watched>,
    pub published: HashMap<String, i64>,
    /// The published tasks that were told to stop.
    pub told_plain: HashSet<i64>,
    /// The permits of this process that wait.
    pub permits: Permits,
    /// The last command that this process has heard of.
    pub heard: i64,
    /// The commands of this process that are not answered.
    pub asked: HashMap<i64, Answer<Option<String>>>,
    /// The tasks of the journal that wait for a worker, and for something else, for samples.
    pub levels: Counted<[u64; 2]>,
    /// The suspect that this process will run alone.
    pub reserved: Option<i64>,
    pub next_due: Option<i64>,
    /// How many tasks wait, about.
    pub waiting: Counted<u64>,
    /// How many files this process has seen replaced.
    era: i64,
}

impl Memory {
    /// After a transaction that was rolled back: what it made is not there.
    pub(crate) fn forget_names(&mut self) {
        self.application = None;
        self.functions.clear();
        self.known.clear();
    }

    /// For a file in the place of another one. Returns what was watched there.
    pub(crate) fn start_anew(&mut self) -> Vec<Watched> {
        let old = std::mem::take(self);
        self.wants_claims = old.wants_claims;
        self.era = old.era + 1;
        old.watched.into_values().collect()
    }

    /// A claim as the host has it. Numbers of tasks and epochs begin again in each file, so the
    /// claims of an earlier one must not look like those of this.
    pub(crate) fn sign(&self, claim: Claim) -> Claim {
        Claim {
            epoch: claim.epoch | self.era << ERA,
            ..claim
        }
    }

    /// A claim as the file has it; `None` if it belongs to an earlier file.
    pub(crate) fn read(&self, claim: Claim) -> Option<Claim> {
        (claim.epoch >> ERA == self.era).then_some(Claim {
            epoch: claim.epoch & ((1 << ERA) - 1),
            ..claim
        })
    }
}
