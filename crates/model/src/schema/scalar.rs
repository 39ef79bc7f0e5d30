//! Values with a JSON form of their own: times, durations, bytes.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;

/// As Go's standard encoding: padding is required, trailing bits are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes as JSON shows them.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Bytes out of JSON. Line ends are skipped.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    let wrong = |error: base64::DecodeError| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(at) => at / 4 * 4,
            base64::DecodeError::InvalidPadding => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    };
    if text.contains(['\n', '\r']) {
        return BASE64.decode(text.replace(['\n', '\r'], "")).map_err(wrong);
    }
    BASE64.decode(text).map_err(wrong)
}

/// RFC 3339 only; jiff alone reads more than that.
fn parse_time(text: &str, layout: &str) -> Result<Timestamp, String> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')].iter().all(|(at, sign)| bytes[*at] == *sign)
        && matches!(bytes[10], b'T' | b't');
    let wrong = || format!("parsing time {text:?} as \"{layout}\": cannot parse {text:?} as \"2006\"");
    if !shape {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// A `Time` in canonical form: UTC, whole seconds.
pub(crate) fn canonical_time(text: &str) -> Result<String, String> {
    let (seconds, _) = floor(parse_time(text, "2006-01-02T15:04:05Z07:00")?);
    Ok(write_time(seconds, 0, false))
}

/// A `MicroTime` in canonical form: UTC, six digits.
pub(crate) fn canonical_micro_time(text: &str) -> Result<String, String> {
    let layout = "2006-01-02T15:04:05.000000Z07:00";
    let (seconds, nanos) = floor(parse_time(text, layout)?);
    // Clients write all six digits, and the API takes nothing else.
    let rest = text.get(19..).unwrap_or_default();
    let digits = rest.strip_prefix('.').map(|digits| digits.bytes().take_while(u8::is_ascii_digit).count());
    match digits {
        Some(6) => Ok(write_time(seconds, nanos, true)),
        Some(7..) => {
            let rest = rest.get(7..).unwrap_or_default();
            Err(format!("parsing time {text:?} as \"{layout}\": cannot parse {rest:?} as \"Z07:00\""))
        }
        _ => Err(format!("parsing time {text:?} as \"{layout}\": cannot parse {rest:?} as \".000000\"")),
    }
}

/// Seconds and nanoseconds of a time's text, as protobuf counts them: the second part counts up.
pub(crate) fn time_parts(text: &str) -> Option<(i64, i32)> {
    parse_time(text, "").ok().map(floor)
}

fn floor(time: Timestamp) -> (i64, i32) {
    // Before 1970 jiff counts both parts down.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) }
}

/// The text of a time; one out of range (year 10000) is the last or first that can be written.
pub(crate) fn write_time(seconds: i64, nanos: i32, micro: bool) -> String {
    let seconds = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let whole = time.strftime("%Y-%m-%dT%H:%M:%S");
    if micro { format!("{whole}.{:06}Z", nanos.clamp(0, 999_999_999) / 1000) } else { format!("{whole}Z") }
}

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of a Go duration, `1h0m0.5s`.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total += number * scale;
        rest = tail;
    }
    if total >= i64::MAX as f64 {
        return Err(wrong());
    }
    let nanos = total.round() as i64;
    Ok(if negative { -nanos } else { nanos })
}

/// A Go duration of that many nanoseconds.
pub(crate) fn write_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let seconds = n / 1_000_000_000;
    let body = match n {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", decimal(n, 1_000)),
        n if n < 1_000_000_000 => format!("{}ms", decimal(n, 1_000_000)),
        n => {
            let below = decimal(n % 60_000_000_000, 1_000_000_000);
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{below}s"),
                (0, minutes) => format!("{minutes}m{below}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{below}s"),
            }
        }
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_canonical() {
        assert_eq!(canonical_time("2024-05-06T07:08:09.5+02:00").unwrap(), "2024-05-06T05:08:09Z");
        assert_eq!(
            canonical_micro_time("2024-05-06T07:08:09.123456+02:00").unwrap(),
            "2024-05-06T05:08:09.123456Z"
        );
        for text in ["2024-05-06T07:08:09Z", "2024-05-06T07:08:09.1Z", "2024-05-06T07:08:09.1234567Z"] {
            assert!(canonical_micro_time(text).unwrap_err().contains("cannot parse"), "{text}");
        }
        assert_eq!(
            canonical_time("yesterday").unwrap_err(),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\""
        );
        for text in ["", "2024-05-06", "2024-05-06 07:08:09Z", "2024-13-06T07:08:09Z", "2024-05-06T07:08:09"]
        {
            assert!(canonical_time(text).is_err(), "{text}");
        }
        assert_eq!(time_parts("1970-01-01T00:00:01Z"), Some((1, 0)));
        assert_eq!(time_parts("1969-12-31T23:59:59.75Z"), Some((-1, 750_000_000)));
        assert_eq!(write_time(i64::MAX, i32::MIN, true).len(), "9999-12-30T22:00:00.000000Z".len());
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanos) in [
            ("1h0m0s", 3_600_000_000_000),
            ("20s", 20_000_000_000),
            ("1m1.5s", 61_500_000_000),
            ("1.5ms", 1_500_000),
            ("3ns", 3),
            ("2µs", 2_000),
            ("0s", 0),
            ("-1s", -1_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos));
            assert_eq!(write_duration(nanos), text);
        }
        assert!(parse_duration("5").is_err());
        assert!(parse_duration("5y").is_err());
        assert!(parse_duration("").is_err());
    }

    #[test]
    fn bytes_are_base64() {
        assert_eq!(from_base64("aGk=").unwrap(), b"hi");
        assert_eq!(from_base64("aG\nk=").unwrap(), b"hi");
        assert_eq!(from_base64("not base64!").unwrap_err(), "illegal base64 data at input byte 3");
        assert!(from_base64("aGk").is_err());
    }
}
