//! Rhythms and their ticks, by clocks of our own: no test here sleeps.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Rhythm, RhythmError, Ticks, has_come};
use jiff::Timestamp;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A time in UTC, as in "2026-03-29T01:00:00Z".
fn utc(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap().to_string()
}

fn every(period: Duration) -> Rhythm {
    Rhythm::every(period).unwrap()
}

fn cron(line: &str, zone: &str) -> Rhythm {
    Rhythm::cron(line, zone).unwrap()
}

/// The first ticks after a time.
fn ticks(rhythm: &Rhythm, after: &str, count: usize) -> Vec<String> {
    let mut time = utc(after);
    let mut next = || {
        time = rhythm.after(time).unwrap();
        text(time)
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_period_is_counted_from_1970_and_does_not_drift() {
    let rhythm = every(Duration::from_secs(10));
    assert_eq!(
        ticks(&rhythm, "2026-11-24T12:00:03.5Z", 3),
        [
            "2026-11-24T12:00:10Z",
            "2026-11-24T12:00:20Z",
            "2026-11-24T12:00:30Z"
        ]
    );
    // A tick is not after itself.
    assert_eq!(
        ticks(&rhythm, "2026-11-24T12:00:10Z", 1),
        ["2026-11-24T12:00:20Z"]
    );
    let mut time = utc("2026-11-24T12:00:00Z");
    let tenth = every(Duration::from_millis(100));
    for _ in 0..1_000_000 {
        time = tenth.after(time).unwrap();
    }
    assert_eq!(time, utc("2026-11-24T12:00:00Z") + 100_000 * SECOND);
    // One that does not divide a second is not rounded.
    let third = every(Duration::from_nanos(333_333_333));
    let first = third.after(UNIX_EPOCH).unwrap();
    assert_eq!(first, UNIX_EPOCH + Duration::from_nanos(333_333_333));
}

#[test]
fn all_who_have_a_rhythm_have_the_same_ticks() {
    let rhythm = every(Duration::from_secs(7));
    let early = rhythm.after(utc("2026-11-24T12:00:01Z")).unwrap();
    assert_eq!(rhythm.until(early), Some(early));
    assert_eq!(rhythm.until(early + 3 * SECOND), Some(early));
    assert_eq!(rhythm.after(early - Duration::from_nanos(1)), Some(early));
    let rhythm = cron("*/5 * * * *", "Asia/Kathmandu");
    let early = rhythm.after(utc("2026-11-24T12:01:00Z")).unwrap();
    assert_eq!(text(early), "2026-11-24T12:05:00Z");
    assert_eq!(rhythm.until(early), Some(early));
    assert_eq!(rhythm.until(early + MINUTE), Some(early));
    assert_eq!(rhythm.after(early - Duration::from_nanos(1)), Some(early));
}

#[test]
fn what_cannot_be_counted_has_no_ticks() {
    assert!(Rhythm::every(Duration::ZERO).is_none());
    let before = UNIX_EPOCH - SECOND;
    assert_eq!(every(SECOND).after(before), None);
    assert_eq!(every(SECOND).until(before), None);
    // Beyond what the clock can tell.
    assert_eq!(
        every(Duration::MAX).after(utc("2026-11-24T12:00:00Z")),
        None
    );
    assert_eq!(
        every(Duration::MAX).until(utc("2026-11-24T12:00:00Z")),
        Some(UNIX_EPOCH)
    );
    // The 30th of February.
    assert_eq!(
        cron("0 0 30 2 *", "UTC").after(utc("2026-11-24T12:00:00Z")),
        None
    );
}

#[test]
fn cron_lines_are_those_of_a_crontab() {
    for (line, expected) in [
        ("*/5 * * * *", "2026-11-24T12:05:00Z"),
        ("0 3 * * *", "2026-11-25T03:00:00Z"),
        ("30 9 1 * *", "2026-12-01T09:30:00Z"),
        ("0 0 * * sun", "2026-11-29T00:00:00Z"),
        ("0 0 * * 7", "2026-11-29T00:00:00Z"),
        ("0 0 1 jan *", "2027-01-01T00:00:00Z"),
        ("0 9-17/4 * * 1-5", "2026-11-24T13:00:00Z"),
        // As in Vixie cron, one of the two days is enough.
        ("0 0 13 * fri", "2026-11-27T00:00:00Z"),
        // Both are meant where either begins with a star: the first odd day that is a Monday.
        ("0 0 */2 * mon", "2026-12-07T00:00:00Z"),
        ("0 0 1-7 * */7", "2026-12-06T00:00:00Z"),
        ("@hourly", "2026-11-24T13:00:00Z"),
        ("@daily", "2026-11-25T00:00:00Z"),
    ] {
        let found = ticks(&cron(line, "UTC"), "2026-11-24T12:00:30.25Z", 1);
        assert_eq!(found, [expected], "{line}");
    }
}

#[test]
fn wrong_lines_and_zones_are_refused() {
    for line in [
        "",
        "* * * *",
        "0 * * * * *",
        "* * * * * * *",
        "60 * * * *",
        "x * * * *",
    ] {
        let error = Rhythm::cron(line, "UTC").unwrap_err();
        assert!(matches!(error, RhythmError::Line(_)), "{line}: {error:?}");
    }
    let error = Rhythm::cron("* * * * *", "Europe/Berlln").unwrap_err();
    assert!(matches!(error, RhythmError::Zone(_)), "{error:?}");
}

#[test]
fn leap_days_come() {
    assert_eq!(
        ticks(&cron("0 12 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 2),
        ["2028-02-29T12:00:00Z", "2032-02-29T12:00:00Z"]
    );
    // 2100 is no leap year.
    assert_eq!(
        ticks(&cron("0 0 29 2 *", "UTC"), "2097-01-01T00:00:00Z", 1),
        ["2104-02-29T00:00:00Z"]
    );
    assert_eq!(
        ticks(&cron("0 0 * * *", "UTC"), "2028-02-28T12:00:00Z", 2),
        ["2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"]
    );
}

/// In Berlin there is nothing between 2:00 and 3:00 on March 29th, and twice as much on
/// October 25th.
#[test]
fn clocks_that_are_put_forward() {
    let berlin = |line| ticks(&cron(line, "Europe/Berlin"), "2026-03-28T12:00:00Z", 3);
    // 2:30 does not exist that night: it comes at the end of the gap, and once.
    assert_eq!(
        berlin("30 2 * * *"),
        [
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
            "2026-03-31T00:30:00Z"
        ]
    );
    // By the clock on the wall it is always at nine.
    assert_eq!(
        berlin("0 9 * * *"),
        [
            "2026-03-29T07:00:00Z",
            "2026-03-30T07:00:00Z",
            "2026-03-31T07:00:00Z"
        ]
    );
    // One that comes every so often has nothing to make up for.
    let found = ticks(
        &cron("*/30 * * * *", "Europe/Berlin"),
        "2026-03-29T00:15:00Z",
        4,
    );
    assert_eq!(
        found,
        [
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:30:00Z",
            "2026-03-29T02:00:00Z"
        ]
    );
}

#[test]
fn clocks_that_are_put_back() {
    let berlin = |line, after| ticks(&cron(line, "Europe/Berlin"), after, 3);
    // Once, at the first of the two.
    assert_eq!(
        berlin("30 2 * * *", "2026-10-24T12:00:00Z"),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z",
            "2026-10-27T01:30:00Z"
        ]
    );
    assert_eq!(
        berlin("0 9 * * *", "2026-10-24T12:00:00Z"),
        [
            "2026-10-25T08:00:00Z",
            "2026-10-26T08:00:00Z",
            "2026-10-27T08:00:00Z"
        ]
    );
    // In both hours.
    assert_eq!(
        berlin("30 * * * *", "2026-10-25T00:00:00Z"),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:30:00Z"
        ]
    );
}

#[test]
fn zones_with_other_changes() {
    // By half an hour.
    assert_eq!(
        ticks(
            &cron("15 2 * * *", "Australia/Lord_Howe"),
            "2026-10-03T12:00:00Z",
            2
        ),
        ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
    );
    // Samoa left out a whole day.
    assert_eq!(
        ticks(
            &cron("0 12 * * *", "Pacific/Apia"),
            "2011-12-29T00:00:00Z",
            2
        ),
        ["2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z"]
    );
}

#[test]
fn each_tick_is_taken_once() {
    let start = utc("2026-11-24T12:00:03Z");
    let mut ticks = Ticks::new(every(10 * SECOND), start);
    let due = utc("2026-11-24T12:00:10Z");
    assert_eq!(ticks.due(), Some(due));
    // Woken too early.
    assert_eq!(ticks.take(start), None);
    assert_eq!(ticks.take(due - Duration::from_nanos(1)), None);
    assert_eq!(ticks.due(), Some(due));
    // Late, but not by a tick.
    assert_eq!(ticks.take(due + 4 * SECOND), Some(due));
    assert_eq!(ticks.due(), Some(due + 10 * SECOND));
    assert_eq!(ticks.take(due + 4 * SECOND), None);
}

#[test]
fn missed_ticks_are_one() {
    let mut ticks = Ticks::new(cron("0 * * * *", "UTC"), utc("2026-11-24T12:30:00Z"));
    // A machine that slept for a night.
    assert_eq!(
        ticks.take(utc("2026-11-25T07:15:00Z")),
        Some(utc("2026-11-25T07:00:00Z"))
    );
    assert_eq!(ticks.due(), Some(utc("2026-11-25T08:00:00Z")));
    // A clock that was set forward by a year.
    assert_eq!(
        ticks.take(utc("2027-11-25T07:15:00Z")),
        Some(utc("2027-11-25T07:00:00Z"))
    );
    assert_eq!(ticks.take(utc("2027-11-25T07:15:01Z")), None);
}

#[test]
fn a_clock_set_back_and_what_comes_every_so_often() {
    let mut ticks = Ticks::new(every(10 * SECOND), utc("2026-11-24T12:00:03Z"));
    assert!(ticks.take(utc("2026-11-24T12:00:10Z")).is_some());
    // An hour back: it goes on by the new time, at once.
    assert_eq!(ticks.take(utc("2026-11-24T11:00:12Z")), None);
    assert_eq!(ticks.due(), Some(utc("2026-11-24T11:00:20Z")));
    assert!(ticks.take(utc("2026-11-24T11:00:20Z")).is_some());
    // An adjustment by some milliseconds brings no tick a second time.
    assert_eq!(ticks.take(utc("2026-11-24T11:00:19.995Z")), None);
    assert_eq!(ticks.due(), Some(utc("2026-11-24T11:00:30Z")));
}

#[test]
fn a_clock_set_back_and_fixed_times() {
    let three = utc("2026-11-25T03:00:00Z");
    let mut ticks = Ticks::new(cron("0 3 * * *", "UTC"), utc("2026-11-24T12:00:00Z"));
    assert_eq!(ticks.take(three), Some(three));
    // By an hour: today's has come, so the next is tomorrow's.
    assert_eq!(ticks.take(three - HOUR), None);
    assert_eq!(ticks.due(), Some(three + 24 * HOUR));
    assert_eq!(ticks.take(three), None);
    // By more than three hours: then it is another night.
    assert_eq!(ticks.take(three - 4 * HOUR), None);
    assert_eq!(ticks.due(), Some(three));
    assert_eq!(ticks.take(three), Some(three));
}

#[test]
fn what_others_have_taken() {
    let often = every(10 * SECOND);
    let fixed = cron("0 3 * * *", "UTC");
    let three = utc("2026-11-25T03:00:00Z");
    for rhythm in [&often, &fixed] {
        assert!(has_come(rhythm, three, three, three));
        assert!(has_come(rhythm, three, three, three + SECOND));
        assert!(!has_come(
            rhythm,
            three + 10 * SECOND,
            three,
            three + 10 * SECOND
        ));
    }
    // The clock was adjusted, after another process has taken it.
    assert!(has_come(&often, three, three, three - SECOND / 200));
    // What it says was taken in the future.
    assert!(!has_come(&often, three, three + HOUR, three));
    assert!(has_come(&fixed, three, three + HOUR, three));
    assert!(!has_come(&fixed, three, three + 3 * HOUR, three));
}
