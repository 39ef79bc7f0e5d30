//! Values as YAML that Kubernetes reads as the same values: a text that without quotes would be
//! something else (`yes`, `0400`, `1_000`) has them, however YAML 1.2 sees it.

use libyaml_safer::{Emitter, Encoding, Event, MappingStyle, ScalarStyle, SequenceStyle};
use serde_json::Value;

use super::scalar;

/// One document. Fields keep their order.
///
/// # Errors
/// When the emitter cannot take it; a tree of JSON has nothing that it could not.
pub fn to_text(value: &Value) -> Result<String, String> {
    let mut out = Vec::new();
    let mut emitter = Emitter::new();
    emitter.set_output_string(&mut out);
    emitter.set_unicode(true);
    emitter.set_width(-1);
    let mut events = vec![Event::stream_start(Encoding::Utf8), Event::document_start(None, &[], true)];
    add(value, &mut events);
    events.extend([Event::document_end(true), Event::stream_end()]);
    events.into_iter().try_for_each(|event| emitter.emit(event)).map_err(|error| error.to_string())?;
    drop(emitter);
    String::from_utf8(out).map_err(|error| error.to_string())
}

fn add(value: &Value, events: &mut Vec<Event>) {
    match value {
        Value::Null => events.push(word("null", ScalarStyle::Plain)),
        Value::Bool(value) => events.push(word(&value.to_string(), ScalarStyle::Plain)),
        Value::Number(value) => events.push(word(&value.to_string(), ScalarStyle::Plain)),
        Value::String(text) => events.push(word(text, style(text))),
        Value::Array(items) => {
            events.push(Event::sequence_start(None, None, true, SequenceStyle::Block));
            items.iter().for_each(|item| add(item, events));
            events.push(Event::sequence_end());
        }
        Value::Object(map) => {
            events.push(Event::mapping_start(None, None, true, MappingStyle::Block));
            for (key, value) in map {
                events.push(word(key, style(key)));
                add(value, events);
            }
            events.push(Event::mapping_end());
        }
    }
}

fn word(text: &str, style: ScalarStyle) -> Event {
    Event::scalar(None, None, text, true, true, style)
}

/// The emitter takes quotes by itself where the grammar wants them.
fn style(text: &str) -> ScalarStyle {
    if text.contains('\n') {
        ScalarStyle::Literal
    } else if scalar::is_text(text) {
        ScalarStyle::Plain
    } else {
        ScalarStyle::DoubleQuoted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::documents;

    #[test]
    fn texts_have_quotes_where_they_would_be_something_else() {
        let value = json!({
            "kind": "List", "n": null, "b": true, "i": 7, "f": 0.5, "e": {}, "s": [], "t": "a\nb\n",
            "words": ["plain text", "yes", "0400", "1_000", "12:30:45", "2001-12-14T21:59:43Z", "", "a: b", "1.33"],
            "<<": "no merge", "on": "key", "8080": "port",
        });
        let text = to_text(&value).unwrap();
        let wanted = "kind: List\n\"n\": null\nb: true\ni: 7\nf: 0.5\ne: {}\ns: []\nt: |\n  a\n  b\nwords:\n- plain text\n- \"yes\"\n\
            - \"0400\"\n- \"1_000\"\n- \"12:30:45\"\n- \"2001-12-14T21:59:43Z\"\n- \"\"\n- 'a: b'\n- \"1.33\"\n\"<<\": no merge\n\
            \"on\": key\n\"8080\": port\n";
        assert_eq!(text, wanted);
        let read = documents(text.as_bytes()).next().unwrap().unwrap();
        assert_eq!((read.value, read.duplicates), (value, Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(texts in proptest::collection::vec("[-+._:0-9a-zA-Z~<# '\"\n\t\\\\é]{0,8}", 0..8)) {
            let map: serde_json::Map<String, Value> = texts.iter().map(|text| (text.clone(), text.as_str().into())).collect();
            let value = json!({"items": texts, "map": map});
            let text = to_text(&value).unwrap();
            let read = documents(text.as_bytes()).next().unwrap();
            prop_assert_eq!(read.map(|document| document.value), Ok(value), "{}", text);
        }
    }
}
