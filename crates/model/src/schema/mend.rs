//! Text that is none, as Go reads it: each byte that is no UTF-8, and each half of a pair of surrogates, is U+FFFD.
//!
//! Only for bodies that could not be read: good ones are never looked at.

const REPLACEMENT: &str = "\u{fffd}";
const ESCAPED_REPLACEMENT: &str = "\\ufffd";

/// The JSON with what is no text in it replaced; `None` when all of it is text.
pub(super) fn mend(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = as_text(bytes);
    let mended = without_halves(&text);
    (mended.as_bytes() != bytes).then(|| mended.into_bytes())
}

fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| text.push_str(REPLACEMENT));
    }
    text
}

/// Escapes stand in strings only, so a backslash elsewhere is refused with or without this.
fn without_halves(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let taken = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                mended.push_str(ESCAPED_REPLACEMENT);
                rest = &escape[6..];
                continue;
            }
            // What is escaped may be a backslash, or a character of several bytes where no escape is.
            _ => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        mended.push_str(&escape[..taken]);
        rest = &escape[taken..];
    }
    mended.push_str(rest);
    mended
}

/// The number of the `\uXXXX` with which a text begins.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| are_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(bytes: &[u8]) -> Option<String> {
        mend(bytes).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_byte_and_each_half_is_one_character() {
        assert_eq!(mended(b"\"a\xe2\x82b\xff\"").as_deref(), Some("\"a\u{fffd}\u{fffd}b\u{fffd}\""));
        assert_eq!(mended(br#""\ud800""#).as_deref(), Some(r#""\ufffd""#));
        assert_eq!(
            mended(br#""\udc00\ud83d\ude00\ud83dx\n""#).as_deref(),
            Some(r#""\ufffd\ud83d\ude00\ufffdx\n""#)
        );
        assert_eq!(mended(br#""\ud800\ud83d\ude00""#).as_deref(), Some(r#""\ufffd\ud83d\ude00""#));
    }

    #[test]
    fn what_is_text_stays() {
        for text in [r#"{"a": "\ud83d\ude00 \\ud800 \u00e4 ä"}"#, r"\", r"\ä", r"\u12", r#""\u+123""#, ""] {
            assert_eq!(mended(text.as_bytes()), None, "{text}");
        }
    }
}
