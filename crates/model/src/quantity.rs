//! Kubernetes quantities (`500m`, `1.5Gi`, `1e3`), exact to a billionth as `k8s.io/apimachinery`
//! `resource.Quantity` is.
//!
//! Invariant: the canonical form that [`Quantity`] prints is the one that Kubernetes stores. What is
//! finer than a billionth is rounded away from zero; what is too large for 128 bits is capped.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

const NANOS: i128 = 1_000_000_000;
/// Digits that are kept of a decimal number: exact, and no power of ten in use overflows.
const DECIMAL_DIGITS: usize = 28;
/// A number of so many digits may be larger than 64 bits.
const EXACT_DIGITS: usize = 18;
/// Digits that are kept of a number with a binary suffix: 60 bits, and 60 more for `Ei`.
const BINARY_DIGITS: usize = 18;

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not a number and a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is none of those that are known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is none.
    #[error("unable to parse numeric part of quantity")]
    Number,
}

/// How a quantity likes to be printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// A quantity. Compared by amount, whatever the format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// None of it.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Reads a quantity.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let parts = Parts::split(text)?;
        let (format, power) = suffix(parts.suffix)?;
        let nanos = parts.nanos(format, power);
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    /// Reads a field of a typed object; `None` when it is no quantity, which validation excludes.
    pub fn of(field: &ApiQuantity) -> Option<Self> {
        Self::parse(&field.0).ok()
    }

    /// Whole units, printed with decimal suffixes.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANOS, format: Format::DecimalSi }
    }

    /// Thousandths, printed with decimal suffixes: CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Whole units, printed with binary suffixes: bytes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        self.scaled(NANOS)
    }

    /// Thousandths, rounded away from zero.
    pub fn milli(self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let rounded = self.nanos / unit + (self.nanos % unit).signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// The same, rounded away from zero to thousandths: how resource lists are defaulted.
    #[must_use]
    pub fn round_to_milli(self) -> Self {
        let unit = NANOS / 1000;
        let rounded = (self.nanos / unit + (self.nanos % unit).signum()) * unit;
        Self { nanos: rounded, ..self }
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// How it likes to be printed.
    pub fn format(self) -> Format {
        self.format
    }

    /// As a field of a typed object, in canonical form.
    pub fn to_api(self) -> ApiQuantity {
        ApiQuantity(self.to_string())
    }
}

/// The canonical form of a quantity's text.
///
/// # Errors
/// When the text is no quantity.
pub fn canonicalize(text: &str) -> Result<String, QuantityError> {
    Quantity::parse(text).map(|quantity| quantity.to_string())
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || !is_suffix_shape(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        Ok(Self { negative: text.starts_with('-'), whole: whole.trim_start_matches('0'), fraction, suffix })
    }

    /// The amount without its sign, rounded up, capped.
    fn nanos(&self, format: Format, power: i32) -> i128 {
        const CAP: i128 = i64::MAX as i128 * NANOS;
        let limit = if format == Format::BinarySi { BINARY_DIGITS } else { DECIMAL_DIGITS };
        if self.whole.len() > limit {
            return CAP;
        }
        // Digits of the fraction that are left out are at least remembered: they round up.
        let (fraction, rest) = self.fraction.split_at(self.fraction.len().min(limit - self.whole.len()));
        let mut mantissa: i128 = 0;
        for digit in self.whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        }
        let mut remainder = rest.bytes().any(|digit| digit != b'0');
        let mut tens = 9 - i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        if format == Format::BinarySi {
            mantissa <<= power;
        } else {
            tens = tens.saturating_add(power);
        }
        let scale = 10_i128.checked_pow(tens.unsigned_abs());
        let nanos = match scale {
            _ if mantissa == 0 => 0,
            Some(scale) if tens >= 0 => mantissa.checked_mul(scale).unwrap_or(CAP),
            None if tens >= 0 => CAP,
            Some(scale) => {
                remainder |= mantissa % scale != 0;
                mantissa / scale
            }
            None => {
                remainder = true;
                0
            }
        };
        // Kubernetes counts with few digits as they are, and with many up to its largest number. A sum of two must
        // not overflow either.
        let is_long = self.whole.len() + self.fraction.len() > EXACT_DIGITS;
        if nanos >= i128::MAX / 4 || (is_long && nanos >= CAP) { CAP } else { nanos + i128::from(remainder) }
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn is_suffix_shape(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The format of a suffix and its power of ten, or of two.
fn suffix(text: &str) -> Result<(Format, i32), QuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == text) {
        return Ok((Format::DecimalSi, *power));
    }
    if let Some(index) = BINARY.iter().position(|name| *name == text) {
        return Ok((Format::BinarySi, 10 * (i32::try_from(index).unwrap_or(0) + 1)));
    }
    let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = exponent.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
    Ok((Format::DecimalExponent, exponent))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos.abs() < 1024 * NANOS;
        match self.format {
            _ if self.nanos == 0 => f.write_str("0"),
            // Binary suffixes have no fractions: those print in decimal.
            Format::BinarySi if !small && self.is_integer() => write_binary(f, self.nanos / NANOS),
            Format::DecimalExponent => write_decimal(f, self.nanos, true),
            Format::DecimalSi | Format::BinarySi => write_decimal(f, self.nanos, false),
        }
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    let mut suffix = "";
    for name in BINARY {
        if units % 1024 != 0 {
            break;
        }
        units /= 1024;
        suffix = name;
    }
    write!(f, "{units}{suffix}")
}

/// Writes with the largest power of a thousand that leaves no fraction.
fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: i128, exponent_form: bool) -> fmt::Result {
    let (mut mantissa, mut power) = (nanos, -9);
    while mantissa % 1000 == 0 && (exponent_form || power < 18) {
        mantissa /= 1000;
        power += 3;
    }
    if exponent_form {
        return if power == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{power}") };
    }
    let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(name, _)| *name);
    write!(f, "{mantissa}{suffix}")
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The sum, in the format of the first that is not zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("0.5", "500m"),
            ("0.1", "100m"),
            ("0.0001", "100u"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("100k", "100k"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Gi", "1Gi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000Mi", "1000Mi"),
            ("0.1Mi", "104857600m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("100e1", "1e3"),
            ("1E", "1E"),
            ("999E", "999E"),
            ("-1.5Gi", "-1536Mi"),
            ("+7", "7"),
            ("007.", "7"),
            (".5", "500m"),
            ("0.0000000001", "1n"),
            ("1n", "1n"),
            ("9223372036854775807", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("1e-100", "1e-9"),
            ("16Ei", "16Ei"),
            ("9999999999999999999999999.909901", "9223372036854775807"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(canonical), "{text}");
            assert_eq!(canonicalize(canonical).as_deref(), Ok(canonical), "canonical {canonical}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "x", "1x", "1 Gi", "Gi", "--1", "1.2.3", "1Gi ", "é", "1e5x"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Format), "{text}");
        }
        for text in ["1mi", "1K", "1e", "1i", "1Gi5", "1k-"] {
            assert_eq!(Quantity::parse(text), Err(QuantityError::Suffix), "{text}");
        }
        assert_eq!(Quantity::parse("."), Err(QuantityError::Number));
    }

    #[test]
    fn amounts_compare_and_add() {
        let q = |text| Quantity::parse(text).unwrap();
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!((q("0") + q("512Mi") + q("512Mi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!([q("100m"), q("200m")].into_iter().sum::<Quantity>().to_string(), "300m");
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("-100m").value(), -1);
        assert_eq!(q("1.0001").milli(), 1001);
        assert_eq!(q("0.0001").round_to_milli().to_string(), "1m");
        assert_eq!(q("999E").value(), i64::MAX);
        assert_eq!(Quantity::from_bytes(1 << 30).to_string(), "1Gi");
        assert_eq!(Quantity::from_milli(1500).to_string(), "1500m");
    }
}
