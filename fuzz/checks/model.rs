//! What must hold of whatever comes in, of the crate `balsa-model`: one function a subject, which takes any bytes. A
//! panic is a finding. Fuzz targets run them on what libFuzzer invents, `crates/model/tests/corpora.rs` on the
//! corpora that are kept.

use balsa_model::fields::{self, ApplyError, Managed, Writer};
use balsa_model::patch::{self, PatchType};
use balsa_model::quantity::Quantity;
use balsa_model::selector::{FieldSelector, LabelSelector};
use balsa_model::strategy::Part;
use balsa_model::{KindRef, kinds, protobuf, schema};
use serde_json::{Value, json};

/// A subject, and what is looked at.
pub(crate) type Check = fn(&[u8]);

/// All of them, by the name of target and corpus.
pub(crate) const CHECKS: [(&str, Check); 8] = [
    ("quantity", quantity),
    ("selector", selector),
    ("body", body),
    ("patch_json", |bytes| patch_of(PatchType::Json, bytes)),
    ("patch_merge", |bytes| patch_of(PatchType::Merge, bytes)),
    ("patch_strategic", |bytes| patch_of(PatchType::Strategic, bytes)),
    ("apply", apply),
    ("protobuf", protobuf),
];

/// Runs the check of that name.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let found = CHECKS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no check {name}")).1(bytes);
}

/// The canonical form of a quantity is one, and the same amount.
fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let shown = quantity.to_string();
    let again = Quantity::parse(&shown).unwrap_or_else(|error| panic!("{text} becomes {shown}: {error}"));
    assert_eq!(again.to_string(), shown, "{text}");
    assert_eq!(again.cmp(&quantity), std::cmp::Ordering::Equal, "{text} becomes {shown}");
    assert_eq!((again.value(), again.milli()), (quantity.value(), quantity.milli()), "{text}");
}

/// What a selector shows of itself selects the same.
fn selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(labels) = LabelSelector::parse(text) {
        let shown = labels.to_string();
        let again = LabelSelector::parse(&shown);
        assert_eq!(again.as_ref(), Ok(&labels), "{text:?} becomes {shown:?}");
    }
    let pods = kinds::by_resource("", "pods").expect("pods are served").descriptor();
    if let Ok(fields) = FieldSelector::parse(text, pods) {
        let shown = fields.to_string();
        let again = FieldSelector::parse(&shown, pods).map(|again| again.to_string());
        assert_eq!(again.as_deref(), Ok(shown.as_str()), "{text:?}");
    }
}

/// The kind that an object says it is.
fn kind_of(value: &Value) -> Option<KindRef> {
    kinds::by_api_version(value.get("apiVersion")?.as_str()?, value.get("kind")?.as_str()?)
}

/// An object as it is stored: canonical.
fn canonical(kind: KindRef, value: Value) -> Option<Value> {
    Some(schema::check(kind.descriptor().message, value).ok()?.value)
}

/// What was taken for an object is canonical, and means the same when it is read again.
fn body(bytes: &[u8]) {
    for parsed in [schema::parse_json(bytes), schema::parse_yaml(bytes)] {
        let Ok((value, _)) = parsed else { continue };
        let Some(kind) = kind_of(&value) else { continue };
        let message = kind.descriptor().message;
        let Ok(checked) = schema::check(message, value) else { continue };
        let again = schema::check(message, checked.value.clone()).expect("what was checked is good");
        assert_eq!((again.value, again.unknown), (checked.value, Vec::new()));
    }
}

/// An object in the first line, and what follows.
fn object_and_rest(bytes: &[u8]) -> Option<(KindRef, Value, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let value: Value = serde_json::from_slice(&bytes[..end]).ok()?;
    let kind = kind_of(&value)?;
    Some((kind, canonical(kind, value)?, &bytes[end + 1..]))
}

/// A patch makes a canonical object of the same kind, or says why not. A merge patch does so once and for all.
fn patch_of(language: PatchType, bytes: &[u8]) {
    let Some((kind, object, body)) = object_and_rest(bytes) else { return };
    let Ok(patched) = patch::apply(language, kind, &object, body) else { return };
    assert_eq!(
        (&patched.value["kind"], &patched.value["apiVersion"]),
        (&object["kind"], &object["apiVersion"])
    );
    assert_eq!(canonical(kind, patched.value.clone()), Some(patched.value.clone()));
    if language == PatchType::Merge {
        let again = patch::apply(language, kind, &patched.value, body).expect("it could be applied before");
        assert_eq!(again.value, patched.value);
    }
}

/// Applying twice is applying once; and who then wants nothing any more owns nothing.
fn apply(bytes: &[u8]) {
    let Some((kind, live, rest)) = object_and_rest(bytes) else { return };
    let Ok((config, _)) = schema::parse_yaml(rest) else { return };
    let writer = |now: i64| Writer {
        manager: "one",
        kind,
        part: Part::Main,
        subresource: "",
        now: jiff::Timestamp::from_second(now).expect("a second after another"),
    };
    let applied = |live: &Value, config: &Value, managed: &str, force: bool, now: i64| {
        fields::apply(Some(live), config, managed, force, &writer(now))
    };
    let Ok(first) = applied(&live, &config, "", true, 1) else { return };
    // What the server then refuses was never applied.
    let Some(value) = canonical(kind, first.value) else { return };
    match applied(&value, &config, &first.managed, false, 2) {
        Ok(second) => {
            assert_eq!(canonical(kind, second.value).as_ref(), Some(&value));
            // Nulls are taken as wishes again and again; no more than the time may tell.
            assert!(
                fields::same_but_times(&second.managed, &first.managed),
                "{} {}",
                first.managed,
                second.managed
            );
        }
        Err(ApplyError::Conflicts(conflicts)) => panic!("it conflicts with itself: {conflicts:?}"),
        Err(ApplyError::Invalid(why)) => panic!("it was good before: {why}"),
    }
    let nothing = json!({"apiVersion": value["apiVersion"], "kind": value["kind"]});
    let last = applied(&value, &nothing, &first.managed, false, 3).expect("nothing conflicts with nobody");
    let managed = Managed::stored(&last.managed);
    assert!(managed.entries.iter().all(|entry| entry.manager != "one" || entry.set().is_empty()));
}

/// A body that is an envelope: what comes out goes in again, and comes out the same.
fn protobuf(bytes: &[u8]) {
    let Ok(envelope) = protobuf::decode_envelope(bytes) else { return };
    let Some(kind) = kinds::by_api_version(&envelope.api_version, &envelope.kind) else { return };
    let message = kind.descriptor().message;
    let Ok(value) = protobuf::to_json(message, envelope.raw) else { return };
    let Ok(raw) = protobuf::from_json(message, &value) else { return };
    let again = protobuf::to_json(message, &raw).expect("what was written can be read");
    assert_eq!(again, value);
}
