//! Processes for tests: this test binary once more, as a child that can be killed, and forks.
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a failed test has to panic"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use flask_delay_engine::begin_generation;
use flask_delay_journal::{after_fork_in_child, after_fork_in_parent, before_fork};

use crate::support::{Random, now};

const ROLE: &str = "JOURNAL_TEST_ROLE";
const FOLDER: &str = "JOURNAL_TEST_FOLDER";

/// A child process that plays a role.
pub(crate) struct Actor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts this test binary once more, with its ignored test `actor` alone.
    pub(crate) fn start(role: &str, folder: &Path) -> Self {
        Self::start_as("actor", role, folder)
    }

    /// As `start`, with an ignored test of another name.
    pub(crate) fn start_as(test: &str, role: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture", "--quiet"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the child says a line with this in it, which is returned.
    #[track_caller]
    pub(crate) fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            let count = self.lines.read_line(&mut line).unwrap();
            assert!(count > 0, "the child has ended before it said {word}");
        }
        line
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As `end`, for a child that may have been killed; whether it was.
    pub(crate) fn was_killed(mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(
            status.success() || status.signal() == Some(libc::SIGKILL),
            "{status}"
        );
        !status.success()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Has the child's `wait_for_end` return, and waits for its end.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn signal(&self, signal: i32) {
        signal_to(self.pid(), signal);
    }
}

/// Runs three processes and kills one of them so often, each time after a while of up to `most`, and
/// all in the end. When each was killed, by its number: before the signal was sent, since what it ran
/// may be started again from then on.
pub(crate) fn kill_often(
    kills: usize,
    random: &mut Random,
    most: Duration,
    start: impl Fn() -> Actor,
) -> HashMap<u32, i64> {
    let mut actors: Vec<Actor> = (0..3).map(|_| start()).collect();
    for actor in &mut actors {
        actor.hear("running");
    }
    let mut died = HashMap::new();
    let mut kill = |actor: Actor| {
        died.insert(actor.pid(), now());
        actor.kill();
    };
    for _ in 0..kills {
        pause(random, most);
        let place = random.below(3);
        kill(std::mem::replace(&mut actors[place], start()));
    }
    actors.into_iter().for_each(&mut kill);
    died
}

/// Waits for up to `most`.
pub(crate) fn pause(random: &mut Random, most: Duration) {
    let most = usize::try_from(most.as_micros()).unwrap();
    thread::sleep(Duration::from_micros(random.below(most) as u64));
}

pub(crate) fn signal_to(pid: u32, signal: i32) {
    // SAFETY: a child of this process that was not waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// The role and the folder of a child process.
pub(crate) fn role() -> (String, std::path::PathBuf) {
    let role = std::env::var(ROLE).expect("run by other tests");
    (role, std::env::var_os(FOLDER).unwrap().into())
}

/// In a child: sleeps until the parent has it end, or has ended itself.
pub(crate) fn wait_for_end() {
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {}
}

/// Kills this process at once.
pub(crate) fn die() -> ! {
    // SAFETY: always allowed.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("killed")
}

/// Forks with the handlers that a program installs. The child runs `main` and ends; the parent gets its id.
pub(crate) fn fork(main: impl FnOnce()) -> u32 {
    before_fork();
    // SAFETY: the child does what the handlers and `main` do, on one thread, and ends without any destructors.
    match unsafe { libc::fork() } {
        0 => {
            begin_generation();
            after_fork_in_child();
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(main));
            if let Err(cause) = &done {
                // What the child prints is lost with the memory of the test that captures it.
                let told = cause.downcast_ref::<String>().map_or("", String::as_str);
                _ = writeln!(std::io::stderr(), "a forked child has failed: {told}");
            }
            // SAFETY: always allowed.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        pid => {
            after_fork_in_parent();
            u32::try_from(pid).expect("the system forks")
        }
    }
}

/// Waits for the end of a forked child; whether it was well.
pub(crate) fn wait_for(pid: u32) -> bool {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let found = unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
    found == pid.cast_signed() && status == 0
}
