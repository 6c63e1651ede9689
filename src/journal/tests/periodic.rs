//! Jobs: one run at a tick whichever process is first, and what is made up for.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::time::Duration;

use flask_delay_engine::Recurrence;
use flask_delay_journal::{
    Accepted, Change, Filter, Journal, NewTask, Run, State, Tick, Ticked, When,
};
use support::{
    Folder, careful, claiming, finished, mine, now, row, settings, shell, task, until, watching,
    with,
};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 24 * 60 * MINUTE;

fn job(when: When) -> Tick {
    Tick {
        job: "tidy".to_owned(),
        name: "shop.tidy (every 60 s)".to_owned(),
        recurrence: Recurrence::every(Duration::from_mins(1)).unwrap(),
        when,
        is_alone: true,
        over: None,
    }
}

fn at(tick: i64) -> Tick {
    job(When::At(tick))
}

/// A full minute of an hour ago: a tick after now would look like a clock that was set back.
fn minute() -> i64 {
    now() / MINUTE * MINUTE - 60 * MINUTE
}

#[track_caller]
fn run(ticked: Ticked) -> Run {
    match ticked {
        Ticked::Runs(run) => run,
        other => panic!("not run: {other:?}"),
    }
}

fn tasks(journal: &Journal) -> usize {
    let rows = journal.list(&Filter::default(), 1_000, None).unwrap();
    rows.unwrap().len()
}

/// Ends a task that was started at once.
fn end(journal: &Journal, run: &Run) {
    let claim = mine(run.accepted.clone().unwrap());
    journal.change(claim, Change::End(finished())).unwrap();
}

fn is_left_out(ticked: &Ticked, times: i64) -> bool {
    matches!(ticked, Ticked::LeftOut { count, .. } if *count == times)
}

mod a_durable_job {
    use super::*;

    #[test]
    fn runs_once_at_a_tick() {
        let folder = Folder::new();
        let (one, _) = claiming(&folder, 4);
        let (two, _) = claiming(&folder, 4);
        let tick = minute();
        assert!(!one.is_taken(&at(tick)).unwrap());
        let made = run(one.tick(at(tick), Some(task())).unwrap());
        assert_eq!((made.number, made.tick, made.last), (1, Some(tick), None));
        end(&one, &made);
        for journal in [&one, &two] {
            assert!(journal.is_taken(&at(tick)).unwrap());
            let again = journal.tick(at(tick), Some(task())).unwrap();
            assert_eq!(again, Ticked::Taken);
            // Those before it, too.
            assert!(journal.is_taken(&at(tick - MINUTE)).unwrap());
        }
        assert_eq!(tasks(&two), 1);
        let next = run(two.tick(at(tick + MINUTE), Some(task())).unwrap());
        assert_eq!((next.number, next.last), (2, Some(tick)));
        let known = one.job("tidy").unwrap().unwrap();
        assert_eq!(known.name, "shop.tidy (every 60 s)");
        assert_eq!(known.tick, Some(tick + MINUTE));
        assert_eq!(known.due, Some(tick + 2 * MINUTE));
        assert_eq!(known.ran, Some(tick + MINUTE));
        assert_eq!((known.runs, known.left_out, known.is_paused), (2, 0, false));
        assert_eq!(one.jobs().unwrap(), vec![known]);
        assert_eq!(one.job("other").unwrap(), None);
    }

    #[test]
    fn tells_its_task_for_which_tick_it_runs() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let tick = minute();
        let first = task();
        let made = run(web.tick(at(tick), Some(first.clone())).unwrap());
        assert_eq!(made.accepted, Some(Accepted::Waiting));
        let (_worker, host) = claiming(&folder, 1);
        let claimed = host.claimed();
        assert_eq!((claimed.id, claimed.tick), (first.id, Some(tick)));
        // One that was asked for is for no tick, as any other task.
        web.submit(task()).unwrap();
        let now = Tick {
            is_alone: false,
            ..job(When::Now)
        };
        run(web.tick(now, Some(task())).unwrap());
        assert_eq!(tasks(&web), 3);
        let sql = "SELECT tick FROM task ORDER BY sequence";
        let shell = shell(&folder);
        let mut rows = shell.prepare(sql).unwrap();
        let found: Vec<Option<i64>> = (rows.query_map([], |row| row.get(0)).unwrap())
            .map(Result::unwrap)
            .collect();
        assert_eq!(found, [Some(tick), None, None]);
    }

    #[test]
    fn is_left_out_while_the_last_run_goes_on() {
        let folder = Folder::new();
        let (one, _) = claiming(&folder, 4);
        let (two, _) = claiming(&folder, 4);
        let tick = minute();
        let first = task();
        let made = run(one.tick(at(tick), Some(first.clone())).unwrap());
        let left = two.tick(at(tick + MINUTE), Some(task())).unwrap();
        let pid = Some(i64::from(std::process::id()));
        let by = Some(first.id);
        assert_eq!(
            left,
            Ticked::LeftOut {
                count: 1,
                pid,
                task: by
            }
        );
        // Counted by the first process alone.
        assert!(one.is_taken(&at(tick + MINUTE)).unwrap());
        assert_eq!(
            one.tick(at(tick + MINUTE), Some(task())).unwrap(),
            Ticked::Taken
        );
        assert!(is_left_out(
            &one.tick(at(tick + 2 * MINUTE), Some(task())).unwrap(),
            2
        ));
        // Neither counted nor run.
        assert!(is_left_out(
            &two.tick(job(When::Now), Some(task())).unwrap(),
            2
        ));
        end(&one, &made);
        assert_eq!(tasks(&one), 1);
        let next = two.tick(at(tick + 3 * MINUTE), Some(task())).unwrap();
        assert_eq!(run(next).last, Some(tick + 2 * MINUTE));
        assert_eq!(two.job("tidy").unwrap().unwrap().left_out, 0);
    }

    #[test]
    fn may_overlap() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 4);
        for number in 0..3 {
            let tick = Tick {
                is_alone: false,
                ..at(minute() + number * MINUTE)
            };
            run(web.tick(tick, Some(task())).unwrap());
        }
        assert_eq!(tasks(&web), 3);
    }

    #[test]
    fn runs_after_a_task_that_was_forgotten() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 1);
        let made = run(web.tick(at(minute()), Some(task())).unwrap());
        end(&web, &made);
        assert_eq!(web.prune(&Filter::default()).unwrap(), 1);
        run(web.tick(at(minute() + MINUTE), Some(task())).unwrap());
    }

    #[test]
    fn keeps_its_tick_where_the_task_is_not_accepted() {
        let folder = Folder::new();
        let mut settings = settings(&folder.database());
        settings.waiting = 1;
        let (web, _) = with(settings, 0);
        web.submit(task()).unwrap();
        let full = run(web.tick(at(minute()), Some(task())).unwrap());
        assert_eq!(full.accepted, Some(Accepted::Full));
        assert!(!web.is_taken(&at(minute())).unwrap());
    }

    #[test]
    fn answers_when_its_task_is_on_the_disk() {
        let folder = Folder::new();
        let (web, _) = with(careful(&folder.database()), 0);
        let first = task();
        let made = run(web.tick(at(minute()), Some(first.clone())).unwrap());
        assert_eq!(made.accepted, Some(Accepted::Waiting));
        assert_eq!(row(&web, &first.id).state, State::Ready);
    }

    #[test]
    fn of_another_app_is_another_one() {
        let folder = Folder::new();
        let (one, _) = watching(&folder);
        let mut settings = settings(&folder.database());
        settings.app = "blog|delay".to_owned();
        let (two, _) = with(settings, 0);
        run(one.tick(at(minute()), Some(task())).unwrap());
        assert_eq!(two.jobs().unwrap(), []);
        run(two.tick(at(minute()), Some(task())).unwrap());
    }

    #[test]
    fn of_many_processes_runs_once() {
        let folder = Folder::new();
        let journals: Vec<_> = (0..4).map(|_| watching(&folder).0).collect();
        let first = minute();
        std::thread::scope(|scope| {
            for journal in &journals {
                scope.spawn(|| {
                    for number in 0..50 {
                        let tick = Tick {
                            is_alone: false,
                            ..at(first + number * MINUTE)
                        };
                        journal.tick(tick, Some(task())).unwrap();
                    }
                });
            }
        });
        assert_eq!(tasks(&journals[0]), 50);
        assert_eq!(journals[0].job("tidy").unwrap().unwrap().runs, 50);
    }
}

mod a_missed_tick {
    use super::*;

    /// The tick of the run that is made up, if any.
    fn made_up(journal: &Journal, until: i64) -> Option<i64> {
        match journal
            .tick(job(When::Missed(until)), Some(task()))
            .unwrap()
        {
            Ticked::Runs(run) => run.tick,
            Ticked::Taken => None,
            other @ Ticked::LeftOut { .. } => panic!("{other:?}"),
        }
    }

    #[test]
    fn is_made_up_once_and_only_the_newest() {
        let folder = Folder::new();
        let (one, _) = claiming(&folder, 4);
        let (two, _) = claiming(&folder, 4);
        let tick = minute();
        let made = run(one.tick(at(tick - 100 * MINUTE), Some(task())).unwrap());
        end(&one, &made);
        assert!(!two.is_taken(&job(When::Missed(now()))).unwrap());
        // Not what comes after the start of the process.
        assert_eq!(made_up(&two, tick + 1), Some(tick));
        assert_eq!(made_up(&one, tick + 1), None);
        assert!(one.is_taken(&at(tick)).unwrap());
        assert_eq!(tasks(&one), 2);
    }

    #[test]
    fn of_a_job_never_seen_is_none() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let until = now();
        assert!(!web.is_taken(&job(When::Missed(until))).unwrap());
        assert_eq!(made_up(&web, until), None);
        assert_eq!(tasks(&web), 0);
        // From now on, it is known since when.
        assert_eq!(made_up(&web, until), None);
        let known = web.job("tidy").unwrap().unwrap();
        assert!(known.tick.unwrap() > now() - MINUTE);
        assert_eq!((known.ran, known.runs), (None, 0));
        shell(&folder)
            .execute("UPDATE periodic SET tick = tick - ?1", [5 * MINUTE])
            .unwrap();
        assert!(made_up(&web, now()).is_some());
    }

    #[test]
    fn of_a_paused_job_is_none() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 1);
        let made = run(web.tick(at(minute() - DAY), Some(task())).unwrap());
        end(&web, &made);
        let until = now();
        web.pause_job(job(When::Now), true).unwrap();
        assert_eq!(made_up(&web, until), None);
        web.pause_job(job(When::Now), false).unwrap();
        assert_eq!(made_up(&web, until), None);
        assert_eq!(tasks(&web), 1);
    }

    #[test]
    fn is_none_after_the_clock_was_set_back() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 1);
        let made = run(web.tick(at(minute() + DAY), Some(task())).unwrap());
        end(&web, &made);
        assert_eq!(made_up(&web, now()), None);
        // But the ticks come, as there is no other day to wait for.
        run(web.tick(at(minute()), Some(task())).unwrap());
    }

    #[test]
    fn of_a_fixed_time_does_not_come_again_with_the_clock() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 1);
        let daily = |when| Tick {
            recurrence: Recurrence::cron("30 2 * * *", "UTC").unwrap(),
            ..job(when)
        };
        let tick = now() + 60 * MINUTE;
        let made = run(web.tick(daily(When::At(tick)), Some(task())).unwrap());
        end(&web, &made);
        // It was two hours later then.
        let again = daily(When::At(tick - 10 * MINUTE));
        assert_eq!(web.tick(again, Some(task())).unwrap(), Ticked::Taken);
    }

    #[test]
    fn is_made_up_if_its_task_was_not_synced() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let tick = minute();
        run(web.tick(at(tick), Some(task())).unwrap());
        assert_eq!(made_up(&web, tick + 1), None);
        // As it is taken back where the disk fails.
        shell(&folder).execute("DELETE FROM task", []).unwrap();
        assert_eq!(made_up(&web, tick + 1), Some(tick));
    }
}

mod a_pause {
    use super::*;

    #[test]
    fn is_that_of_all_processes() {
        let folder = Folder::new();
        let (one, _) = watching(&folder);
        one.pause_job(job(When::Now), true).unwrap();
        one.close();
        let (two, _) = claiming(&folder, 1);
        assert!(two.job("tidy").unwrap().unwrap().is_paused);
        assert!(two.is_taken(&at(minute())).unwrap());
        assert_eq!(two.tick(at(minute()), Some(task())).unwrap(), Ticked::Taken);
        // It can be asked for all the same.
        let made = run(two.tick(job(When::Now), Some(task())).unwrap());
        end(&two, &made);
        two.pause_job(job(When::Now), false).unwrap();
        assert!(two.is_taken(&at(minute())).unwrap());
        run(two.tick(at(now() + MINUTE), Some(task())).unwrap());
    }

    #[test]
    fn of_no_effect_writes_nothing() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        web.pause_job(job(When::Now), false).unwrap();
        assert_eq!(web.jobs().unwrap(), []);
        run(web.tick(at(minute()), Some(task())).unwrap());
        let known = web.jobs().unwrap();
        web.pause_job(job(When::Now), false).unwrap();
        assert_eq!(web.jobs().unwrap(), known);
    }
}

mod a_plain_job {
    use super::*;

    #[test]
    fn runs_in_the_process_that_takes_the_tick() {
        let folder = Folder::new();
        let (one, _) = watching(&folder);
        let (two, _) = watching(&folder);
        let tick = minute();
        let made = run(one.tick(at(tick), None).unwrap());
        assert_eq!((made.accepted.clone(), made.number), (None, 1));
        assert_eq!(two.tick(at(tick), None).unwrap(), Ticked::Taken);
        let left = two.tick(at(tick + MINUTE), None).unwrap();
        let pid = Some(i64::from(std::process::id()));
        assert_eq!(
            left,
            Ticked::LeftOut {
                count: 1,
                pid,
                task: None
            }
        );
        one.run_is_over("tidy", made.number);
        // Each call takes a tick: the end may not be in the file at the first one.
        let mut next = tick + MINUTE;
        until(|| {
            next += MINUTE;
            matches!(two.tick(at(next), None), Ok(Ticked::Runs(_)))
        });
        // What the first one says again is about another run.
        one.run_is_over("tidy", made.number);
        assert!(is_left_out(&one.tick(at(next + MINUTE), None).unwrap(), 1));
    }

    #[test]
    fn goes_on_after_a_run_whose_end_is_not_told_yet() {
        let folder = Folder::new();
        let (web, _) = watching(&folder);
        let made = run(web.tick(at(minute()), None).unwrap());
        let next = Tick {
            over: Some(made.number),
            ..at(minute() + MINUTE)
        };
        run(web.tick(next.clone(), None).unwrap());
        // That was the run before.
        let third = Tick {
            when: When::At(minute() + 2 * MINUTE),
            ..next
        };
        assert!(is_left_out(&web.tick(third, None).unwrap(), 1));
    }

    #[test]
    fn goes_on_after_the_death_of_its_process() {
        let folder = Folder::new();
        let (one, _) = watching(&folder);
        let (two, _) = watching(&folder);
        run(one.tick(at(minute()), None).unwrap());
        // As of a process that is gone and that no other one has buried yet.
        std::fs::remove_file(folder.path().join("journal").join("1.alive")).unwrap();
        shell(&folder)
            .execute("UPDATE process SET pid = 4194305 WHERE slot = 1", [])
            .unwrap();
        run(two.tick(at(minute() + MINUTE), None).unwrap());
    }

    #[test]
    fn goes_on_after_its_process_has_left() {
        let folder = Folder::new();
        let (one, _) = watching(&folder);
        let (two, _) = watching(&folder);
        run(one.tick(at(minute()), None).unwrap());
        one.close();
        run(two.tick(at(minute() + MINUTE), None).unwrap());
    }

    #[test]
    fn becomes_durable() {
        let folder = Folder::new();
        let (web, _) = claiming(&folder, 1);
        let made = run(web.tick(at(minute()), None).unwrap());
        let durable: Option<NewTask> = Some(task());
        assert!(is_left_out(
            &web.tick(at(minute() + MINUTE), durable).unwrap(),
            1
        ));
        web.run_is_over("tidy", made.number);
        until(|| {
            let ticked = web.tick(at(minute() + 2 * MINUTE), Some(task()));
            matches!(ticked, Ok(Ticked::Runs(_)))
        });
    }
}

#[test]
fn a_job_that_is_gone_is_forgotten_after_thirty_days() {
    let folder = Folder::new();
    let (web, _) = watching(&folder);
    let of = |job: &str, tick| Tick {
        job: job.to_owned(),
        ..at(tick)
    };
    run(web.tick(of("gone", minute() - 40 * DAY), None).unwrap());
    run(web.tick(of("rare", minute() - 20 * DAY), None).unwrap());
    run(web.tick(of("paused", minute() - 40 * DAY), None).unwrap());
    let sql = "UPDATE periodic SET paused = 1 WHERE job = 'paused'";
    shell(&folder).execute(sql, []).unwrap();
    let (_worker, _) = claiming(&folder, 1);
    until(|| web.job("gone").unwrap().is_none());
    let left: Vec<_> = web.jobs().unwrap().into_iter().map(|it| it.job).collect();
    assert_eq!(left, ["paused", "rare"]);
}
