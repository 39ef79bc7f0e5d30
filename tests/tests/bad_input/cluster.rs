//! What only the cluster can say no to: what it gives out, whom it certifies, and what it keeps.

use http::Method;
use serde_json::{Value, json};

use super::{Bad, CONFIG_MAPS, JSON, SERVICES};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// For `CN=eve`, `O=system:masters`; made with openssl.
const OF_MASTERS: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIak1JR0pBZ0VBTUNjeEZ6QVZCZ05WQkFvTURuTjVjM1JsYlRwdFlYTjBaWEp6TVF3d0NnWURWUVFEREFObApkbVV3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVNwWnJwaWpmK2pXS21meDUvUVBjREo3WXhWCkEybHJnUzJDc0NKVkp4ZWpLeEtEMHdpU29hZGdPMk9XOE0xclVuZlFrekp1dmhscG16VmhabW5HZWdwTW9BQXcKQ2dZSUtvWkl6ajBFQXdJRFNRQXdSZ0loQUwyWUdHY1h5VUEvOEZZR1llQ2t6ak1SZzFCU0dudVBjaFpKd0F0cApJcVN1QWlFQXB6MUxDRGo1dHdMbTgrTE1SOGtreDJ3V2hmVzVraUpFTVBmU01McWdVK1E9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

pub(crate) fn refusals() -> Vec<Bad> {
    let mut all = services();
    all.extend(certificates());
    all.extend(tokens());
    all.extend(events());
    all.extend(what_stays());
    all
}

fn service(spec: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

fn services() -> Vec<Bad> {
    let create = |what, spec: Value| Bad::create(what, SERVICES, &service(&spec));
    vec![
        create("two families where there is one", json!({"ipFamilyPolicy": "RequireDualStack"})).invalid(
            "Service \"s\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not \
             configured for dual-stack services",
            &["spec.ipFamilyPolicy"],
        ),
        create("a family that there is not", json!({"ipFamilies": ["IPv6"]})).invalid(
            "Service \"s\" is invalid: spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            &["spec.ipFamilies[0]"],
        ),
        create("a health check that nobody asks for", json!({"healthCheckNodePort": 30555})).invalid(
            "spec.healthCheckNodePort: Invalid value: 30555: may only be set when `type` is 'LoadBalancer' and \
             `externalTrafficPolicy` is 'Local'",
            &["spec.healthCheckNodePort"],
        ),
        create(
            "an address of a name",
            json!({"type": "ExternalName", "externalName": "a.test", "clusterIP": "10.96.77.7"}),
        )
        .invalid("spec.clusterIPs: Forbidden: may not be set for ExternalName services", &["spec.clusterIPs"]),
    ]
}

fn request(spec: &Value) -> Value {
    let mut request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "r"}, "spec": {"request": OF_MASTERS, "usages": ["client auth"]}});
    request["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    request
}

/// Three bytes in PEM.
const RUBBISH: &str =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUFBQQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

fn certificates() -> Vec<Bad> {
    let create = |what, spec: Value| Bad::create(what, REQUESTS, &request(&spec));
    let status = |what, status: &Value| {
        Bad::patch(what, format!("{REQUESTS}/asked/status"), &json!({"status": status}))
    };
    vec![
        create("to be one of the masters", json!({"signerName": "kubernetes.io/kube-apiserver-client"})).refused(
            403,
            "Forbidden",
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: use of \
             kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
        ),
        create("a signer without a name", json!({"signerName": "kubernetes.io/legacy-unknown"})).invalid(
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via \
             this API version",
            &["spec.signerName"],
        ),
        create("rubbish in PEM", json!({"signerName": "example.com/nobody", "request": RUBBISH}))
            .invalid(format!("spec.request: Invalid value: \"{RUBBISH}\": asn1: "), &["spec.request"]),
        create(
            "rubbish for the cluster's own signer",
            json!({"signerName": "kubernetes.io/kube-apiserver-client", "request": RUBBISH}),
        )
        .refused(
            403,
            "Forbidden",
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: failed to parse CSR: asn1: ",
        ),
        create(
            "a use twice",
            json!({"signerName": "example.com/nobody", "usages": ["client auth", "client auth"]}),
        )
        .invalid("spec.usages[1]: Duplicate value: \"client auth\"", &["spec.usages[1]"]),
        status("an approval beside its door", &json!({"conditions": [{"type": "Approved", "status": "True"}]}))
            .invalid(
                "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
                &["status.conditions"],
            ),
        status("a certificate that is none", &json!({"certificate": "bm9uZQ=="})).invalid(
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
            &["status.certificate"],
        ),
    ]
}

fn tokens() -> Vec<Bad> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t"}});
    let lasting = json!({"spec": {"expirationSeconds": 4_294_967_297_i64}});
    let named = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "metadata": {"name": "me"}, "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    vec![
        Bad::create("a token of nobody", "/api/v1/namespaces/zoo/secrets", &secret).invalid(
            "Secret \"t\" is invalid: metadata.annotations[kubernetes.io/service-account.name]: Required value",
            &["metadata.annotations[kubernetes.io/service-account.name]"],
        ),
        Bad::create("a token for ever", "/api/v1/namespaces/zoo/serviceaccounts/default/token", &lasting)
            .invalid(
                "spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                &["spec.expirationSeconds"],
            ),
        Bad::create(
            "a question with a name",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &named,
        )
        .invalid("metadata: Invalid value: {\"name\":\"me\"}: must be empty", &["metadata"]),
    ]
}

fn events() -> Vec<Bad> {
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "zoo"},
        "eventTime": "2026-11-29T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        "action": "Testing", "reason": "Tested", "type": "Normal", "series": {"count": 1},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "zoo"}});
    vec![
        Bad::create("a series without its time", "/apis/events.k8s.io/v1/namespaces/zoo/events", &event)
            .invalid("series.lastObservedTime: Required value", &["series.count", "series.lastObservedTime"]),
    ]
}

fn what_stays() -> Vec<Bad> {
    let end = json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}});
    let fixed = format!("{CONFIG_MAPS}/fixed");
    let critical = format!("{CLASSES}/system-node-critical");
    vec![
        Bad::patch("an end that is no deletion", fixed, &end).invalid(
            "metadata.deletionTimestamp: Invalid value: 2030-01-01 00:00:00 +0000 UTC: field is immutable",
            &["metadata.deletionTimestamp", "metadata.deletionTimestamp"],
        ),
        Bad::new("the system's own class", Method::DELETE, &critical, JSON, Vec::new()).refused(
            403,
            "Forbidden",
            "this is a system priority class and cannot be deleted",
        ),
        Bad::patch(
            "a Secret whose type is taken away",
            "/api/v1/namespaces/zoo/secrets/typed".to_owned(),
            &json!({"type": null}),
        )
        .invalid(
            "Secret \"typed\" is invalid: type: Invalid value: \"Opaque\": field is immutable",
            &["type"],
        ),
    ]
}
