//! Protobuf to JSON and back, and rubbish refused.

use serde_json::json;

use super::*;

/// Samples in canonical form: what goes in must come out.
fn samples() -> Vec<(&'static str, Value)> {
    let pod_spec = json!({
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "c", "image": "i:v1", "args": ["a", ""],
            "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": false}}}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": "web", "scheme": "HTTP"}, "periodSeconds": 10},
            "securityContext": {"runAsUser": 0, "privileged": false},
        }],
        "securityContext": {"supplementalGroups": [1, 2]},
        "tolerations": [{"operator": "Exists", "tolerationSeconds": -1}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
    });
    vec![
        (
            "core.v1.Pod",
            json!({
                "metadata": {
                    "name": "p", "namespace": "n", "labels": {"a": "b", "c": ""},
                    "creationTimestamp": "2024-05-06T07:08:09Z",
                    "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "r", "controller": true}],
                },
                "spec": pod_spec,
                "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0}]},
            }),
        ),
        (
            "apps.v1.Deployment",
            json!({
                "metadata": {"name": "d"},
                "spec": {
                    "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                    "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}},
                },
            }),
        ),
        (
            "core.v1.Service",
            json!({"spec": {"clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}]}}),
        ),
        (
            "coordination.v1.Lease",
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "", "renewTime": "2024-05-06T07:08:09.123456Z", "leaseDurationSeconds": 15}}),
        ),
        (
            "core.v1.Event",
            json!({"eventTime": "1969-12-31T23:59:59.750000Z", "firstTimestamp": "2024-05-06T07:08:09Z", "count": 3, "type": "Normal", "involvedObject": {"kind": "Pod"}}),
        ),
        ("core.v1.Secret", json!({"data": {"a": "aGk=", "empty": ""}, "type": "Opaque"})),
        (
            "am.apis.meta.v1.DeleteOptions",
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "orphanDependents": false, "dryRun": ["All"]}),
        ),
        ("authorization.v1.SubjectAccessReview", json!({"spec": {"user": "u", "extra": {"k": ["v", "w"]}}})),
        ("metrics.v1beta1.NodeMetrics", json!({"window": "20s", "usage": {"cpu": "156340345n"}})),
        (
            "apiextensions.v1.JSONSchemaProps",
            json!({
                "type": "object", "default": {"a": [1, null]}, "minimum": -0.5, "additionalProperties": false,
                "properties": {
                    "x": {"items": {"type": "string"}},
                    "y": {"items": [{"type": "string"}], "additionalProperties": {"type": "integer"}},
                    "z": {"additionalProperties": true, "enum": ["a", 1]},
                },
            }),
        ),
    ]
}

#[test]
fn samples_survive_the_round_trip() {
    for (message, value) in samples() {
        let bytes = from_json(message, &value).unwrap();
        assert_eq!(to_json(message, &bytes).unwrap(), value, "{message}");
    }
}

#[test]
fn bytes_are_those_of_the_published_schema() {
    // A Lease as another implementation writes it: metadata {name: "l"}, spec {leaseDurationSeconds: 15}.
    let frozen = [0x0a, 3, 0x0a, 1, b'l', 0x12, 2, 0x10, 15];
    let value = json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 15}});
    assert_eq!(from_json("coordination.v1.Lease", &value).unwrap(), frozen);
    assert_eq!(to_json("coordination.v1.Lease", &frozen).unwrap(), value);
}

#[test]
fn values_that_protobuf_spells_out_are_left_out() {
    // Container: name "c", image "" (field 2), stdin false (16), an unknown field 200.
    let container = [0x0a, 1, b'c', 0x12, 0, 0x80, 0x01, 0, 0xc0, 0x0c, 7];
    assert_eq!(to_json("core.v1.Container", &container).unwrap(), json!({"name": "c"}));
    // An empty Time is none: ObjectMeta.creationTimestamp is field 8.
    assert_eq!(to_json("am.apis.meta.v1.ObjectMeta", &[0x42, 0]).unwrap(), json!({}));
}

#[test]
fn packed_numbers_are_read() {
    // PodSecurityContext.supplementalGroups is field 4.
    let number = table::find("core.v1.PodSecurityContext").unwrap().get();
    let number = number.json_field("supplementalGroups").unwrap().number as u8;
    let packed = [number << 3 | 2, 2, 1, 2];
    assert_eq!(
        to_json("core.v1.PodSecurityContext", &packed).unwrap(),
        json!({"supplementalGroups": [1, 2]})
    );
}

#[test]
fn envelopes_open_and_close() {
    let bytes = encode_envelope("apps/v1", "Deployment", b"\x0a\x00");
    assert!(bytes.starts_with(&MAGIC));
    let envelope = decode_envelope(&bytes).unwrap();
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("apps/v1", "Deployment"));
    assert_eq!(envelope.raw, b"\x0a\x00");
    assert_eq!(decode_envelope(b"{}"), Err(ProtobufError::Magic));
    assert_eq!(decode_envelope(b"k8s\0\x0a\x05"), Err(ProtobufError::Truncated));
    let frame = watch_frame("ADDED", &bytes);
    assert_eq!(frame.len() - 4, u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize);
}

/// A small generator that always gives the same numbers.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

#[test]
fn nothing_that_comes_in_panics() {
    let mut random = Lcg(42);
    for (message, value) in samples() {
        let good = from_json(message, &value).unwrap();
        for _ in 0..500 {
            // Noise, and good bytes with a few of them changed or cut off.
            let noise: Vec<u8> = (0..random.next() % 64).map(|_| random.next() as u8).collect();
            let _ = to_json(message, &noise);
            let _ = decode_envelope(&[&MAGIC[..], &noise].concat());
            let mut bad = good.clone();
            for _ in 0..=random.next() % 4 {
                let at = random.next() as usize % bad.len();
                bad[at] = random.next() as u8;
            }
            bad.truncate(random.next() as usize % (bad.len() + 1));
            if let Ok(value) = to_json(message, &bad) {
                // What decodes can be encoded again.
                let _ = from_json(message, &value);
            }
        }
    }
}

#[test]
fn depth_is_bounded() {
    // JSONSchemaProps.not is field 28: a schema in a schema, over and over.
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        let inner = std::mem::take(&mut bytes);
        wire::write_bytes(&mut bytes, 28, &inner);
    }
    assert_eq!(to_json("apiextensions.v1.JSONSchemaProps", &bytes), Err(ProtobufError::Depth));
}
