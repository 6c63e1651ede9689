//! The waits between jobs: refuses a wait that would close a circle.
//!
//! A job that does not wait can end, and so can one that waits if enough of its targets can. Any
//! other job is in a circle, if the jobs that keep it from ending lead back to it.
//!
//! A job that has not started may be held up by others, as if it waited for them. Such changes are
//! not reported, so each new wait asks for them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;
use log::warn;

/// A job, as a number that its owner chooses.
pub type Key = usize;

/// A job's wait: `T` is a job's name, `H` a handle to ask about another job's obstacle.
#[derive(Clone, Debug)]
pub struct Wait<T, H> {
    /// The name of the waiting job.
    pub name: T,
    /// The jobs that it waits for.
    pub targets: Vec<Target<H>>,
    /// How many of them have to end, at most as many as there are.
    pub need: usize,
}

/// A job that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<H> {
    /// The job.
    pub job: Key,
    /// The handle to ask about its obstacle, if it can have one.
    pub held: Option<H>,
}

/// The obstacle of a job that has not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle<T, H> {
    /// The name of the job.
    pub name: T,
    /// How the jobs in its way hold it up, in the owner's words.
    pub how: &'static str,
    /// The jobs in its way.
    pub jobs: Vec<Target<H>>,
    /// How many of them have to end, at most as many as there are.
    pub need: usize,
}

/// A job of a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<T> {
    /// The name of the job.
    pub name: T,
    /// How the next job holds it up; `None` if it waits for that job.
    pub held: Option<&'static str>,
}

/// The waits of one process.
pub struct WaitGraph<T, H> {
    // A leaf: nothing else is locked while this is held, and nothing is dropped.
    edges: Mutex<Option<Edges<T, H>>>,
    /// How many waits there have been.
    count: AtomicU64,
}

/// The waits of each job. Only the last one counts: the job cannot end the others before it.
type Edges<T, H> = HashMap<Key, Vec<(u64, Wait<T, H>)>>;

/// The obstacles known so far.
type Known<T, H> = HashMap<Key, Obstacle<T, H>>;

/// How often a wait looks again because an obstacle has changed meanwhile. Where obstacles keep
/// changing, jobs end, so that nothing stands still.
const ROUNDS: usize = 16;

impl<T: Clone + PartialEq, H: Clone + PartialEq> WaitGraph<T, H> {
    /// A graph without waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            edges: Mutex::new(None),
            count: AtomicU64::new(0),
        }
    }

    /// Notes that `waiter` waits, until the guard is dropped. `ask` returns a job's present
    /// obstacle, if any; it is called without a lock.
    ///
    /// # Errors
    ///
    /// When the wait would never end: the jobs of the circle, from `waiter` on. The last of them
    /// waits for `waiter` or is held up by it.
    pub fn enter(
        &self,
        waiter: Key,
        wait: Wait<T, H>,
        ask: impl Fn(&H) -> Option<Obstacle<T, H>>,
    ) -> Result<Entered<'_, T, H>, Vec<Link<T>>> {
        let entered = Entered {
            waits: self,
            waiter,
            // Relaxed: a number that no other wait has.
            number: self.count.fetch_add(1, Ordering::Relaxed),
        };
        let mut wait = Some(wait);
        let mut known = Known::new();
        let mut changes = 0;
        while changes < ROUNDS {
            let (asked, circle) = {
                let mut edges = self.edges.lock();
                let edges = edges.get_or_insert_with(HashMap::new);
                if let Some(wait) = wait.take() {
                    add(edges, &entered, wait);
                }
                let (asked, circle) = look(edges, &entered, &known);
                if circle.is_some() {
                    // In the same step, so that exactly one of the waits that close a circle
                    // together is refused.
                    wait = remove(edges, &entered);
                }
                (asked, circle)
            };
            // Only now that others can see this wait: a job that becomes an obstacle after this,
            // and then waits itself, finds it.
            let answers = ask_all(asked, &ask);
            if known == answers {
                return match circle {
                    Some(circle) => Err(circle),
                    None => Ok(entered),
                };
            }
            // Further jobs are not a change, and their number is finite.
            let grown = known
                .iter()
                .all(|(job, told)| answers.get(job) == Some(told));
            changes += usize::from(!grown);
            known = answers;
        }
        if let Some(wait) = wait {
            let mut edges = self.edges.lock();
            add(edges.get_or_insert_with(HashMap::new), &entered, wait);
        }
        warn!(
            target: "flask_delay::engine",
            "a wait was let in without knowing whether it ends: what holds up the tasks that it \
             depends on has changed at {ROUNDS} looks"
        );
        Ok(entered)
    }
}

impl<T: Clone + PartialEq, H: Clone + PartialEq> Default for WaitGraph<T, H> {
    fn default() -> Self {
        Self::new()
    }
}

/// Ends the wait when dropped.
pub struct Entered<'a, T, H> {
    waits: &'a WaitGraph<T, H>,
    waiter: Key,
    number: u64,
}

impl<T, H> Drop for Entered<'_, T, H> {
    fn drop(&mut self) {
        let removed = {
            let mut edges = self.waits.edges.lock();
            edges.as_mut().and_then(|edges| remove(edges, self))
        };
        drop(removed);
    }
}

fn add<T, H>(edges: &mut Edges<T, H>, entered: &Entered<'_, T, H>, wait: Wait<T, H>) {
    let waits = edges.entry(entered.waiter).or_default();
    waits.push((entered.number, wait));
}

fn remove<T, H>(edges: &mut Edges<T, H>, entered: &Entered<'_, T, H>) -> Option<Wait<T, H>> {
    let waits = edges.get_mut(&entered.waiter)?;
    let place = waits
        .iter()
        .position(|(number, _)| *number == entered.number)?;
    let (_, wait) = waits.remove(place);
    if waits.is_empty() {
        edges.remove(&entered.waiter);
    }
    Some(wait)
}

/// The obstacles of these jobs, and of the jobs in their way, and so on.
fn ask_all<T, H: Clone>(
    asked: HashMap<Key, H>,
    ask: impl Fn(&H) -> Option<Obstacle<T, H>>,
) -> Known<T, H> {
    let mut answers = Known::new();
    let mut open: Vec<_> = asked.into_iter().collect();
    while let Some((job, held)) = open.pop() {
        if !answers.contains_key(&job)
            && let Some(obstacle) = ask(&held)
        {
            let jobs = obstacle.jobs.iter();
            open.extend(jobs.filter_map(|it| Some((it.job, it.held.clone()?))));
            answers.insert(job, obstacle);
        }
    }
    answers
}

/// The handles of the jobs that this wait depends on, and the circle that it closes, as far as
/// known.
fn look<T: Clone, H: Clone>(
    edges: &Edges<T, H>,
    entered: &Entered<'_, T, H>,
    known: &Known<T, H>,
) -> (HashMap<Key, H>, Option<Vec<Link<T>>>) {
    let mut asked = HashMap::new();
    let own = edges.get(&entered.waiter).and_then(|waits| {
        let own = waits.iter().find(|(number, _)| *number == entered.number);
        own.map(|(_, wait)| wait)
    });
    let Some(own) = own else {
        return (asked, None);
    };
    // The usual case.
    let runs = |target: &Target<H>| target.held.is_none() && !edges.contains_key(&target.job);
    if own.targets.iter().all(runs) {
        return (asked, None);
    }
    let mut graph = Graph::new(entered.waiter);
    let mut place = 0;
    while let Some(job) = graph.jobs.get(place).copied() {
        let wait = if place == 0 {
            Some(own)
        } else {
            let waits = edges.get(&job);
            waits.and_then(|waits| waits.last()).map(|(_, wait)| wait)
        };
        if let Some(wait) = wait {
            for target in &wait.targets {
                if let Some(held) = &target.held
                    && !edges.contains_key(&target.job)
                {
                    asked.entry(target.job).or_insert_with(|| held.clone());
                }
            }
            graph.join(place, &wait.name, None, &wait.targets, wait.need);
        } else if let Some(obstacle) = known.get(&job) {
            let how = Some(obstacle.how);
            graph.join(place, &obstacle.name, how, &obstacle.jobs, obstacle.need);
        }
        place += 1;
    }
    (asked, graph.circle())
}

/// The jobs on which one job's end depends, itself first. Indices are places in `jobs`.
struct Graph<'a, T> {
    jobs: Vec<Key>,
    places: HashMap<Key, usize>,
    nodes: Vec<Node<'a, T>>,
}

struct Node<'a, T> {
    /// `None` for a job that nothing keeps from ending.
    link: Option<Link<&'a T>>,
    targets: Vec<usize>,
    dependents: Vec<usize>,
    /// How many more of the targets have to end.
    lacking: usize,
}

impl<'a, T: Clone> Graph<'a, T> {
    fn new(job: Key) -> Self {
        let mut graph = Self {
            jobs: Vec::new(),
            places: HashMap::new(),
            nodes: Vec::new(),
        };
        graph.place(job);
        graph
    }

    fn place(&mut self, job: Key) -> usize {
        let next = self.jobs.len();
        let place = *self.places.entry(job).or_insert(next);
        if place == next {
            self.jobs.push(job);
            self.nodes.push(Node {
                link: None,
                targets: Vec::new(),
                dependents: Vec::new(),
                lacking: 0,
            });
        }
        place
    }

    fn join<H>(
        &mut self,
        place: usize,
        name: &'a T,
        held: Option<&'static str>,
        targets: &[Target<H>],
        need: usize,
    ) {
        let targets = targets.iter().map(|target| self.place(target.job));
        let targets: Vec<_> = targets.collect();
        for target in &targets {
            self.nodes[*target].dependents.push(place);
        }
        let node = &mut self.nodes[place];
        node.link = Some(Link { name, held });
        node.lacking = need.min(targets.len());
        node.targets = targets;
    }

    /// The shortest way from the first job back to it, if it cannot end.
    fn circle(mut self) -> Option<Vec<Link<T>>> {
        let mut free: Vec<_> = (0..self.nodes.len())
            .filter(|place| self.nodes[*place].lacking == 0)
            .collect();
        while let Some(place) = free.pop() {
            for dependent in std::mem::take(&mut self.nodes[place].dependents) {
                let lacking = &mut self.nodes[dependent].lacking;
                if *lacking > 0 {
                    *lacking -= 1;
                    if *lacking == 0 {
                        free.push(dependent);
                    }
                }
            }
        }
        let stuck = |place: usize| self.nodes[place].lacking > 0;
        if !stuck(0) {
            return None;
        }
        let mut from = HashMap::new();
        let mut queue = VecDeque::from([0]);
        while let Some(place) = queue.pop_front() {
            for target in &self.nodes[place].targets {
                if *target == 0 {
                    return self.way(place, &from);
                }
                if stuck(*target) && !from.contains_key(target) {
                    from.insert(*target, place);
                    queue.push_back(*target);
                }
            }
        }
        None
    }

    /// The way from the first job to the one at `place`.
    fn way(&self, mut place: usize, from: &HashMap<usize, usize>) -> Option<Vec<Link<T>>> {
        let mut links = Vec::new();
        loop {
            let link = self.nodes[place].link?;
            links.push(Link {
                name: link.name.clone(),
                held: link.held,
            });
            match from.get(&place) {
                Some(previous) => place = *previous,
                None => break,
            }
        }
        links.reverse();
        Some(links)
    }
}
