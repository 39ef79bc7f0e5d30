//! What a word of YAML means: the rules of YAML 1.1 as Kubernetes' reader has them.
//!
//! `yes`, `on` and `y` are true, `0400` is octal, digits may be grouped by underscores; numbers of
//! base 60 and times are texts. Only a word without quotes has a meaning beside its letters.

use serde_json::{Number, Value};

/// What a tag may ask for, without `tag:yaml.org,2002:`.
const KNOWN: [&str; 6] = ["str", "bool", "int", "float", "null", "timestamp"];

/// A word: `tag` is what stands before it (`!!int`), `plain` says that it has no quotes.
///
/// # Errors
/// When it is not what its tag says, or a number that JSON has not.
pub(super) fn resolve(tag: Option<&str>, word: &str, plain: bool) -> Result<Value, String> {
    let Some(tag) = tag.filter(|tag| *tag != "!") else {
        return if plain { meaning(word) } else { Ok(word.into()) };
    };
    let wanted = tag.strip_prefix("tag:yaml.org,2002:").unwrap_or(tag);
    match wanted {
        "str" | "timestamp" => return Ok(word.into()),
        "binary" => return binary(word),
        _ if !KNOWN.contains(&wanted) => return Ok(word.into()),
        _ => {}
    }
    let value = meaning(word)?;
    let found = match &value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        // An integer may be written where a fraction is asked for, and one that ends in `.0` is none.
        Value::Number(_) if wanted == "float" => "float",
        Value::Number(number) if number.is_f64() || fraction(word).is_some() && integer(word).is_none() => {
            "float"
        }
        Value::Number(_) => "int",
        _ => "str",
    };
    if found == wanted {
        return Ok(value);
    }
    Err(format!("yaml: cannot decode !!{found} `{word}` as a !!{wanted}"))
}

/// Whether a word without quotes is that text for every reader: for those that know times and numbers of
/// base 60, too.
pub(super) fn is_text(word: &str) -> bool {
    let mark = |c: char| matches!(c, ':' | '-' | '+' | '.' | '_');
    let mut letters = word.chars();
    let timely = word.starts_with(|c: char| c.is_ascii_digit() || mark(c))
        && letters.all(|c| c.is_ascii_digit() || mark(c) || matches!(c, 'T' | 't' | 'Z' | ' '));
    !timely && word != "<<" && meaning(word).is_ok_and(|value| value.is_string())
}

/// What a word without quotes and tag says.
fn meaning(word: &str) -> Result<Value, String> {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(true.into());
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(false.into());
        }
        ".nan" | ".NaN" | ".NAN" => return Err("json: unsupported value: NaN".to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Err("json: unsupported value: +Inf".to_owned());
        }
        "-.inf" | "-.Inf" | "-.INF" => return Err("json: unsupported value: -Inf".to_owned()),
        _ => {}
    }
    let number = integer(word).or_else(|| fraction(word).and_then(in_json));
    Ok(number.map_or_else(|| word.into(), Value::Number))
}

/// An integer of 64 bits: `0x`, `0o` and `0b` say its base, and so does a mere zero in front (8).
fn integer(word: &str) -> Option<Number> {
    let digits = word.replace('_', "");
    let (negative, digits) = match digits.strip_prefix(['+', '-']) {
        Some(rest) => (digits.starts_with('-'), rest),
        None => (false, digits.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        Some(_) if lower.starts_with('0') => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    // Digits only from here on: a second sign is none.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let size = u64::from_str_radix(digits, base).ok()?;
    if negative { 0_i64.checked_sub_unsigned(size).map(Number::from) } else { Some(size.into()) }
}

/// A number with a point or an exponent; also digits that are too many, or too large for base 8.
fn fraction(word: &str) -> Option<f64> {
    let digits = if word.starts_with('.') { word.to_owned() } else { word.replace('_', "") };
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    // Rust reads `infinity`, too.
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    digits.parse().ok().filter(|value: &f64| value.is_finite())
}

/// As Go writes it: without a point when nothing is behind it, so that `1e3` and `8.0` are integers.
fn in_json(value: f64) -> Option<Number> {
    /// Two to the power of 63.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if value.fract() == 0.0 && (-END..END).contains(&value) {
        #[allow(clippy::cast_possible_truncation)] // it was just looked at
        return Some((value as i64).into());
    }
    Number::from_f64(value)
}

/// The text in Base64 that `!!binary` announces, which JSON can carry only when it is text indeed.
fn binary(word: &str) -> Result<Value, String> {
    use base64::Engine as _;
    let packed: String = word.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_without_quotes() {
        let table = [
            // Integers, also of other bases.
            ("0", json!(0)),
            ("-0", json!(0)),
            ("12", json!(12)),
            ("+12", json!(12)),
            ("-12", json!(-12)),
            ("0400", json!(256)),
            ("-0400", json!(-256)),
            ("00", json!(0)),
            ("0o400", json!(256)),
            ("0O400", json!(256)),
            ("0x1F", json!(31)),
            ("0X1f", json!(31)),
            ("-0x1F", json!(-31)),
            ("0b11", json!(3)),
            ("-0b11", json!(-3)),
            ("1_000", json!(1000)),
            ("0x_ff", json!(255)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("-9223372036854775808", json!(i64::MIN)),
            // Too large, or no digits of base 8: a number all the same.
            ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
            ("08", json!(8)),
            ("0899", json!(899)),
            // Fractions; those without a rest are integers in JSON.
            ("0.5", json!(0.5)),
            (".5", json!(0.5)),
            ("-.5", json!(-0.5)),
            ("1.", json!(1)),
            ("1.0", json!(1)),
            ("1.10", json!(1.1)),
            ("1e3", json!(1000)),
            ("1E-2", json!(0.01)),
            ("1_000.5", json!(1000.5)),
            ("1e30", json!(1e30)),
            // Booleans and nothing.
            ("true", json!(true)),
            ("Yes", json!(true)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("False", json!(false)),
            ("NO", json!(false)),
            ("off", json!(false)),
            ("N", json!(false)),
            ("", json!(null)),
            ("~", json!(null)),
            ("Null", json!(null)),
        ];
        for (word, wanted) in table {
            assert_eq!(resolve(None, word, true), Ok(wanted), "{word}");
        }
    }

    #[test]
    fn texts_stay_texts() {
        let words = "tRUE yEs oN nope 0x 0b2 0o9 1e 1e400 1.2.3 12:30:45 2001-12-14 2001-12-14T21:59:43Z 1Gi 100m -- +-1 -0x-1 ._5 . .. \
            inf nan infinity <<";
        for word in words.split_whitespace() {
            assert_eq!(resolve(None, word, true), Ok(json!(word)), "{word}");
        }
        for word in ["0400", "true", "y", "null", "", "1.5"] {
            assert_eq!(resolve(None, word, false), Ok(json!(word)), "quoted {word}");
            assert_eq!(resolve(Some("tag:yaml.org,2002:str"), word, true), Ok(json!(word)), "!!str {word}");
            assert_eq!(resolve(Some("!mine"), word, true), Ok(json!(word)), "!mine {word}");
        }
    }

    #[test]
    fn tags_say_what_is_meant() {
        let tagged = |tag: &str, word: &str| resolve(Some(&format!("tag:yaml.org,2002:{tag}")), word, false);
        assert_eq!(tagged("int", "0400"), Ok(json!(256)));
        assert_eq!(tagged("float", "3"), Ok(json!(3)));
        assert_eq!(tagged("float", "3.5"), Ok(json!(3.5)));
        assert_eq!(tagged("bool", "yes"), Ok(json!(true)));
        assert_eq!(tagged("null", ""), Ok(json!(null)));
        assert_eq!(tagged("binary", "aGVs\nbG8="), Ok(json!("hello")));
        assert_eq!(tagged("timestamp", "2001-12-14"), Ok(json!("2001-12-14")));
        for (tag, word, why) in [
            ("int", "x", "yaml: cannot decode !!str `x` as a !!int"),
            ("int", "1.5", "yaml: cannot decode !!float `1.5` as a !!int"),
            ("int", "1.0", "yaml: cannot decode !!float `1.0` as a !!int"),
            ("bool", "1", "yaml: cannot decode !!int `1` as a !!bool"),
            ("binary", "*", "yaml: !!binary value contains invalid base64 data"),
        ] {
            assert_eq!(tagged(tag, word), Err(why.to_owned()));
        }
    }

    #[test]
    fn what_json_has_not_is_refused() {
        for (word, name) in [(".nan", "NaN"), (".inf", "+Inf"), ("+.INF", "+Inf"), ("-.Inf", "-Inf")] {
            assert_eq!(resolve(None, word, true), Err(format!("json: unsupported value: {name}")));
        }
    }
}
