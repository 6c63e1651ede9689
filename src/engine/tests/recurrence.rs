//! Recurrences and their ticks, by clocks of the tests: no test here sleeps.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Recurrence, RecurrenceError, Ticks, has_come};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

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

fn every(period: Duration) -> Recurrence {
    Recurrence::every(period).unwrap()
}

fn cron(line: &str, zone: &str) -> Recurrence {
    Recurrence::cron(line, zone).unwrap()
}

/// The first ticks after a time.
fn ticks(recurrence: &Recurrence, after: &str, count: usize) -> Vec<String> {
    let mut time = utc(after);
    let mut next = || {
        time = recurrence.after(time).unwrap();
        text(time)
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_period_is_counted_from_1970_and_does_not_drift() {
    let recurrence = every(Duration::from_secs(10));
    assert_eq!(
        ticks(&recurrence, "2026-11-24T12:00:03.5Z", 3),
        [
            "2026-11-24T12:00:10Z",
            "2026-11-24T12:00:20Z",
            "2026-11-24T12:00:30Z"
        ]
    );
    // A tick is not after itself.
    assert_eq!(
        ticks(&recurrence, "2026-11-24T12:00:10Z", 1),
        ["2026-11-24T12:00:20Z"]
    );
    let mut time = utc("2026-11-24T12:00:00Z");
    let tenth = every(Duration::from_millis(100));
    for _ in 0..1_000_000 {
        time = tenth.after(time).unwrap();
    }
    assert_eq!(time, utc("2026-11-24T12:00:00Z") + 100_000 * SECOND);
    // A period that does not divide a second is not rounded.
    let third = every(Duration::from_nanos(333_333_333));
    let first = third.after(UNIX_EPOCH).unwrap();
    assert_eq!(first, UNIX_EPOCH + Duration::from_nanos(333_333_333));
}

#[test]
fn all_who_have_a_rhythm_have_the_same_ticks() {
    let recurrence = every(Duration::from_secs(7));
    let early = recurrence.after(utc("2026-11-24T12:00:01Z")).unwrap();
    assert_eq!(recurrence.until(early), Some(early));
    assert_eq!(recurrence.until(early + 3 * SECOND), Some(early));
    assert_eq!(
        recurrence.after(early - Duration::from_nanos(1)),
        Some(early)
    );
    let recurrence = cron("*/5 * * * *", "Asia/Kathmandu");
    let early = recurrence.after(utc("2026-11-24T12:01:00Z")).unwrap();
    assert_eq!(text(early), "2026-11-24T12:05:00Z");
    assert_eq!(recurrence.until(early), Some(early));
    assert_eq!(recurrence.until(early + MINUTE), Some(early));
    assert_eq!(
        recurrence.after(early - Duration::from_nanos(1)),
        Some(early)
    );
}

#[test]
fn what_cannot_be_counted_has_no_ticks() {
    assert!(Recurrence::every(Duration::ZERO).is_none());
    let before = UNIX_EPOCH - SECOND;
    assert_eq!(every(SECOND).after(before), None);
    assert_eq!(every(SECOND).until(before), None);
    // Beyond the clock's range.
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
        // Both must match where either begins with a star: the first odd day that is a Monday.
        ("0 0 */2 * mon", "2026-12-07T00:00:00Z"),
        ("0 0 1-7 * */7", "2026-12-06T00:00:00Z"),
        ("@hourly", "2026-11-24T13:00:00Z"),
        ("@daily", "2026-11-25T00:00:00Z"),
        ("@midnight", "2026-11-25T00:00:00Z"),
        ("@Weekly", "2026-11-29T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        ("  0\t3  * * *  ", "2026-11-25T03:00:00Z"),
        ("05 03 * DEC mon", "2026-12-07T03:05:00Z"),
        ("5-59/10 * * * *", "2026-11-24T12:05:00Z"),
        ("0 0 * * sat-sun", "2026-11-28T00:00:00Z"),
        ("0 0 * * sun-mon", "2026-11-29T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        // A step as long as its field matches once.
        ("*/60 * * * *", "2026-11-24T13:00:00Z"),
        ("0 */24 * * *", "2026-11-25T00:00:00Z"),
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
        let error = Recurrence::cron(line, "UTC").unwrap_err();
        assert!(
            matches!(error, RecurrenceError::Line(_)),
            "{line}: {error:?}"
        );
    }
    let error = Recurrence::cron("* * * * *", "Europe/Berlln").unwrap_err();
    assert!(matches!(error, RecurrenceError::Zone(_)), "{error:?}");
}

/// Lines that are refused, and their messages.
const WRONG: &[(&str, &str)] = &[
    (
        "0 0 MON * *",
        "its third field, the day of the month, has \"MON\": MON belongs in the fifth field, \
             the day of the week",
    ),
    (
        "0 fri * * *",
        "its second field, the hour, has \"FRI\": FRI belongs in the fifth field, the day of \
             the week",
    ),
    (
        "0 0 1 mon-wed *",
        "its fourth field, the month, has \"MON-WED\": MON belongs in the fifth field, the day \
             of the week",
    ),
    (
        "0 0 * * jan",
        "its fifth field, the day of the week, has \"JAN\": JAN belongs in the fourth field, \
             the month",
    ),
    (
        "*/90 * * * *",
        "its first field, the minute, has \"*/90\": the step must be from 1 to 60",
    ),
    (
        "0 */25 * * *",
        "its second field, the hour, has \"*/25\": the step must be from 1 to 24",
    ),
    (
        "0 0 */32 * *",
        "third field, the day of the month, has \"*/32\": the step must be from 1",
    ),
    (
        "0 0 1 */13 *",
        "its fourth field, the month, has \"*/13\": the step must be from 1 to 12",
    ),
    (
        "0 0 * * */8",
        "the day of the week, has \"*/8\": the step must be from 1 to 7",
    ),
    (
        "0-10/20 * * * *",
        "has \"0-10/20\": the step must be from 1 to 11",
    ),
    ("*/0 * * * *", "the step must be from 1 to 60"),
    ("*/x * * * *", "the step must be from 1 to 60"),
    ("*/ * * * *", "the step must be from 1 to 60"),
    (
        "5/10 * * * *",
        "has \"5/10\": a step needs a range: \"5-59/...\"",
    ),
    (
        "1,,2 * * * *",
        "has \"1,,2\": there is a comma with nothing beside it",
    ),
    (
        "0 5, * * *",
        "its second field, the hour, has \"5,\": there is a comma with nothing",
    ),
    (
        "0 0 ,1 * *",
        "third field, the day of the month, has \",1\": there is a comma",
    ),
    (
        "60 * * * *",
        "its first field, the minute, has \"60\": 60 is not from 0 to 59",
    ),
    ("0 0 0 * *", "has \"0\": 0 is not from 1 to 31"),
    ("0 0 1 13 *", "has \"13\": 13 is not from 1 to 12"),
    ("0 0 * * 8", "has \"8\": 8 is not from 0 to 7"),
    ("0 1-30 * * *", "has \"1-30\": 30 is not from 0 to 23"),
    (
        "0 17-9 * * *",
        "has \"17-9\": the range ends before it begins",
    ),
    (
        "0 0 * * 5-0",
        "has \"5-0\": the range ends before it begins",
    ),
    ("0 0 * * monday", "has \"MONDAY\": it must be such as"),
    ("+1 * * * *", "has \"+1\": it must be such as"),
    (
        "* ? * * *",
        "its second field, the hour, has \"?\": it must be such as",
    ),
    ("** * * * *", "has \"**\": it must be such as"),
    ("1-2-3 * * * *", "has \"1-2-3\": it must be such as"),
    ("0 L * * *", "its second field, the hour, has \"L\""),
    ("0 0 * L *", "its fourth field, the month, has \"L\""),
    ("0 0 * * L", "has \"L\": it does not say which day"),
    ("0 0 W * *", "has \"W\": it must be such as"),
    ("0 0 32W * *", "has \"32W\": 32 is not from 1 to 31"),
    ("0 0 1-5W * *", "has \"1-5W\": it must be such as"),
    (
        "0 0 * * mon#6",
        "has \"MON#6\": after the # comes a number from 1 to 5",
    ),
    ("0 0 * * 8L", "has \"8L\": 8 is not from 0 to 7"),
    ("0 0 * * +mon", "has \"+MON\": it must be such as"),
    (
        "",
        "five fields (minute, hour, day of the month, month, day of the week), and has 0",
    ),
    ("0 * * * * *", "and has 6"),
    (
        "@reboot",
        "what is to run once, when the app starts, is a task without `cron`",
    ),
    (
        "@dayly",
        "must be a line of five fields, or one of @hourly, @daily, @midnight",
    ),
];

/// A name in the wrong field, a step too long and an empty place in a list are errors.
#[test]
fn what_is_wrong_is_named_with_its_field() {
    for (line, expected) in WRONG {
        let Err(RecurrenceError::Line(why)) = Recurrence::cron(line, "UTC") else {
            panic!("{line} is taken");
        };
        assert!(why.contains(expected), "{line}: {why}");
    }
}

/// What crontabs do not have, but croner, Quartz and others do.
#[test]
fn last_days_workdays_and_so_manieth_days() {
    // November 1st, 2026, is a Sunday; so is January 31st, 2027.
    for (line, expected) in [
        ("0 0 L * *", ["2026-11-30", "2026-12-31", "2027-01-31"]),
        ("0 0 l 2 *", ["2027-02-28", "2028-02-29", "2029-02-28"]),
        ("0 0 1,L * *", ["2026-11-30", "2026-12-01", "2026-12-31"]),
        ("0 0 LW * *", ["2026-11-30", "2026-12-31", "2027-01-29"]),
        // The 15th of November is a Sunday, that of May 2027 a Saturday.
        ("0 0 15W * *", ["2026-11-16", "2026-12-15", "2027-01-15"]),
        ("0 0 15w 5 *", ["2027-05-14", "2028-05-15", "2029-05-15"]),
        // Not into another month.
        ("0 0 1W * *", ["2026-11-02", "2026-12-01", "2027-01-01"]),
        ("0 0 31W * *", ["2026-12-31", "2027-01-29", "2027-03-31"]),
        ("0 0 * * 5L", ["2026-11-27", "2026-12-25", "2027-01-29"]),
        ("0 0 * * friL", ["2026-11-27", "2026-12-25", "2027-01-29"]),
        ("0 0 * * 7L", ["2026-11-29", "2026-12-27", "2027-01-31"]),
        ("0 0 * * MON#2", ["2026-11-09", "2026-12-14", "2027-01-11"]),
        ("0 0 * * 7#5", ["2026-11-29", "2027-01-31", "2027-05-30"]),
        (
            "0 0 ? * mon#1,wed#1",
            ["2026-11-02", "2026-11-04", "2026-12-02"],
        ),
        ("0 0 13 * ?", ["2026-11-13", "2026-12-13", "2027-01-13"]),
    ] {
        let found = ticks(&cron(line, "UTC"), "2026-11-01T12:00:00Z", 3);
        let expected = expected.map(|date| format!("{date}T00:00:00Z"));
        assert_eq!(found, expected, "{line}");
    }
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

/// In Berlin the hour from 2:00 to 3:00 is missing on March 29th, and comes twice on October 25th.
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
    // An interval has nothing to make up for.
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

/// Lists and ranges are fixed times as well.
#[test]
fn lists_and_ranges_when_clocks_change() {
    let berlin = |line, after, count| ticks(&cron(line, "Europe/Berlin"), after, count);
    let spring = "2026-03-28T20:00:00Z";
    assert_eq!(
        berlin("0 2,14 * * *", spring, 3),
        [
            "2026-03-29T01:00:00Z",
            "2026-03-29T12:00:00Z",
            "2026-03-30T00:00:00Z"
        ]
    );
    // Both at the end of the gap, which is one time.
    for line in [
        "0,30 2 * * *",
        "0-59/30 2 * * *",
        "0 2,3 * * *",
        "0 2-3 * * *",
    ] {
        let found = berlin(line, spring, 2);
        assert_eq!(found[0], "2026-03-29T01:00:00Z", "{line}");
        assert_eq!(found[1], "2026-03-30T00:00:00Z", "{line}");
    }
    let autumn = "2026-10-24T20:00:00Z";
    assert_eq!(
        berlin("30 2,14 * * *", autumn, 3),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-25T13:30:00Z",
            "2026-10-26T01:30:00Z"
        ]
    );
    assert_eq!(
        berlin("0-30/30 1-3 * * *", autumn, 6),
        [
            "2026-10-24T23:00:00Z",
            "2026-10-24T23:30:00Z",
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T02:00:00Z",
            "2026-10-25T02:30:00Z",
        ]
    );
    // With a star anywhere in minute or hour, it goes by the clock.
    assert_eq!(berlin("*/30 2 * * *", spring, 1), ["2026-03-30T00:00:00Z"]);
    assert_eq!(
        berlin("0,*/30 2 * * *", autumn, 4),
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z"
        ]
    );
    // A gap that ends on another day: the line means the day before.
    let nuuk = cron("30 23 * * 6", "America/Nuuk");
    let before = "2026-03-28T20:00:00Z";
    assert_eq!(ticks(&nuuk, before, 1), ["2026-03-29T01:00:00Z"]);
}

/// Vixie cron's own algorithm, minute by minute, from a time long after the last change of the
/// clocks.
fn by_vixie(line: &str, zone: &TimeZone, from: Timestamp, minutes: i64) -> Vec<Timestamp> {
    let fields: Vec<&str> = line.split(' ').collect();
    let fixed = !fields[0].contains('*') && !fields[1].contains('*');
    // The fields as sets, for the syntax of the lines below.
    let set = |field: &str, all: std::ops::Range<i8>| -> Vec<i8> {
        field
            .split(',')
            .flat_map(|item| match item.split_once('/') {
                Some((_, step)) => all
                    .clone()
                    .step_by(step.parse().unwrap())
                    .collect::<Vec<_>>(),
                None if item == "*" => all.clone().collect(),
                None => match item.split_once('-') {
                    Some((a, b)) => (a.parse().unwrap()..=b.parse().unwrap()).collect(),
                    None => vec![item.parse().unwrap()],
                },
            })
            .collect()
    };
    let (minute, hour) = (set(fields[0], 0..60), set(fields[1], 0..24));
    let comes = |at: DateTime| minute.contains(&at.minute()) && hour.contains(&at.hour());
    let one = SignedDuration::from_mins(1);
    let mut seen = zone.to_datetime(from);
    let mut found = Vec::new();
    for count in 1..=minutes {
        let time = from + one * i32::try_from(count).unwrap();
        let clock = zone.to_datetime(time);
        let jump = clock.duration_since(seen);
        if !fixed || jump > SignedDuration::from_mins(180) + one {
            if comes(clock) {
                found.push(time);
            }
            seen = clock;
            continue;
        }
        let mut is_due = false;
        while seen < clock {
            seen = seen.checked_add(one).unwrap();
            is_due |= comes(seen);
        }
        if is_due {
            found.push(time);
        }
    }
    found
}

#[test]
fn every_kind_of_change_of_clocks_is_as_in_vixie_cron() {
    let lines = [
        "0 2,14 * * *",
        "0,30 2 * * *",
        "30 2,14 * * *",
        "15,45 0-3,22,23 * * *",
        "0 0 * * *",
        "30 1 * * *",
        "59 23 * * *",
        "*/30 2 * * *",
        "*/7 * * * *",
        "30 * * * *",
        "0 */2 * * *",
    ];
    let day = SignedDuration::from_hours(24);
    let mut seen = std::collections::HashSet::new();
    let start: Timestamp = "1990-01-01T00:00:00Z".parse().unwrap();
    let end: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    for name in jiff::tz::db().available() {
        let Ok(zone) = TimeZone::get(name.as_str()) else {
            continue;
        };
        let changes = zone.following(start).map(|change| change.timestamp());
        for time in changes.take_while(|time| *time < end) {
            // The result depends on the size of the change and the time of the day.
            let before = zone.to_datetime(time - SignedDuration::from_nanos(1));
            let clock = zone.to_datetime(time);
            if !seen.insert((before.duration_since(clock), clock.time())) {
                continue;
            }
            for line in lines {
                let from = time - day;
                let recurrence = cron(line, name.as_str());
                let (mut at, mut found) = (SystemTime::from(from), Vec::new());
                while let Some(next) = recurrence.after(at)
                    && next <= SystemTime::from(from + day * 2)
                {
                    // `after` and `until` agree.
                    assert_eq!(recurrence.until(next), Some(next), "{name} {line}");
                    if !found.is_empty() {
                        assert_eq!(recurrence.until(next - SECOND), Some(at), "{name} {line}");
                    }
                    found.push(Timestamp::try_from(next).unwrap());
                    at = next;
                }
                let expected = by_vixie(line, &zone, from, 2 * 24 * 60);
                assert_eq!(found, expected, "{line} in {name}, {time}");
            }
        }
    }
    assert!(seen.len() > 30, "{}", seen.len());
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
    for recurrence in [&often, &fixed] {
        assert!(has_come(recurrence, three, three, three));
        assert!(has_come(recurrence, three, three, three + SECOND));
        assert!(!has_come(
            recurrence,
            three + 10 * SECOND,
            three,
            three + 10 * SECOND
        ));
    }
    // The clock was adjusted after another process had taken the tick.
    assert!(has_come(&often, three, three, three - SECOND / 200));
    // The tick appears to have been taken in the future.
    assert!(!has_come(&often, three, three + HOUR, three));
    assert!(has_come(&fixed, three, three + HOUR, three));
    assert!(!has_come(&fixed, three, three + 3 * HOUR, three));
}
