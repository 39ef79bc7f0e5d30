//! Commands that are typed less often: kustomize, what was applied last, server-side apply, lists of labels, raw
//! requests, histories of revisions.

use super::table::{Row, fails, ok};

pub(crate) const FILES: &[(&str, &str)] = &[
    ("kustomization.yaml", "namePrefix: k-\nresources: [map.yaml]\n"),
    (
        "generated.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: one-of-many-, namespace: '{ns}'}\n",
    ),
    (
        "two.yaml",
        "apiVersion: v1\nkind: List\nitems:\n\
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: '{ns}', labels: {prune: me}}}\n\
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: goes, namespace: '{ns}', labels: {prune: me}}}\n",
    ),
    (
        "one.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stays, namespace: '{ns}', labels: {prune: me}}\n",
    ),
    ("raw.json", "{\"metadata\":{\"name\":\"raw\"},\"data\":{\"a\":\"b\"}}"),
];

/// A command that an older kubectl does not have.
const fn since(since: u32, row: Row) -> Row {
    Row { since, ..row }
}

pub(crate) const MORE: &[Row] = &[
    ok("kustomize {dir}", &["name: k-m", "kind: ConfigMap"]),
    ok("apply -k {dir}", &["configmap/k-m created"]),
    ok("diff -k {dir}", &[]),
    ok("get -k {dir} -o name", &["configmap/k-m"]),
    ok("delete -k {dir}", &["configmap \"k-m\" deleted"]),
    ok("replace --force -f {dir}/map.yaml", &["configmap \"m\" deleted", "configmap/m replaced"]),
    ok("apply -f {dir}/map.yaml", &["configmap/m configured"]),
    ok("apply view-last-applied -f {dir}/map.yaml", &["a: \"1\""]),
    ok("apply set-last-applied -f {dir}/map2.yaml", &["configmap/m configured"]),
    ok("apply view-last-applied configmap/m -n {ns} -o json", &["\"a\": \"3\""]),
    ok(
        "apply -f {dir}/map.yaml --server-side --field-manager=me --force-conflicts",
        &["configmap/m serverside-applied"],
    ),
    ok("get cm m -n {ns} -o yaml --show-managed-fields", &["manager: me", "operation: Apply"]),
    fails("apply -f {dir}/map2.yaml --server-side --field-manager=other", &["with \"me\"", ".data.a"]),
    fails(
        "diff -f {dir}/map2.yaml --server-side --force-conflicts --field-manager=other",
        &["-  a: \"1\"", "+  a: \"3\""],
    ),
    ok("label cm --all of=all -n {ns}", &["configmap/m labeled"]),
    ok("label cm m -n {ns} --list", &["of=all"]),
    fails("label cm m of=other -n {ns}", &["already has a value (all), and --overwrite is false"]),
    ok("label cm m of=other --overwrite -n {ns}", &["configmap/m labeled"]),
    fails("label cm m of=third --overwrite --resource-version=1 -n {ns}", &["the object has been modified"]),
    ok("annotate cm m note='two words' -n {ns}", &["configmap/m annotate"]),
    ok("annotate cm m -n {ns} --list", &["note=two words"]),
    ok("get -f {dir}/map.yaml -o jsonpath={.metadata.labels.of}", &["other"]),
    ok("get cm m -n {ns} --server-print=false", &["NAME", "AGE"]),
    ok("get cm -n {ns} -l of=other -o jsonpath-as-json={.items[*].metadata.name}", &["\"m\""]),
    ok("get cm -n {ns} -L of", &["OF", "other"]),
    ok("get cm m -n {ns} --output-watch-events -w --request-timeout=1s", &["EVENT", "ADDED"]),
    since(31, ok("wait --for=create cm/m -n {ns} --timeout=20s", &["condition met"])),
    ok("create -f {dir}/generated.yaml", &["configmap/one-of-many-", "created"]),
    ok("create --raw /api/v1/namespaces/{ns}/configmaps -f {dir}/raw.json", &["raw"]),
    ok("get --raw /api/v1/namespaces/{ns}/configmaps/raw", &["raw"]),
    ok("delete --raw /api/v1/namespaces/{ns}/configmaps/raw", &["Success"]),
    fails("get --raw /api/v1/namespaces/{ns}/configmaps/raw", &["NotFound"]),
    ok("delete cm m -n {ns} --dry-run=server", &["deleted (server dry run)"]),
    ok("rollout history deployment/web -n {ns}", &["REVISION"]),
    ok("rollout history statefulset/db -n {ns} --revision=1", &["Pod Template", "Image:"]),
    ok("rollout history daemonset/each -n {ns}", &["REVISION"]),
    ok(
        "scale deployment/web statefulset/db --replicas=1 -n {ns}",
        &["deployment.apps/web scaled", "statefulset.apps/db scaled"],
    ),
    ok("patch deployment web -n {ns} --subresource=status --type=merge -p '{\"status\":{}}'", &["patched"]),
    ok("events -n {ns} --types=Warning", &["FailedScheduling"]),
    ok("create clusterrole agg-{ns} --aggregation-rule=rbac.example.com/{ns}=true", &["created"]),
    ok("delete clusterrole agg-{ns}", &["deleted"]),
    ok("create role dry --verb=get --resource=pods --dry-run=client -o yaml", &["kind: Role", "- get"]),
    ok("set subject rolebinding rb --user=another -n {ns}", &["subjects updated"]),
    ok("create token sa -n {ns} --duration=10m --audience=me", &["."]),
    ok("auth can-i get pods/log -n {ns}", &["yes"]),
    ok("explain cm --output=plaintext-openapiv2", &["ConfigMap", "binaryData"]),
    ok("api-resources --sort-by=kind --cached", &["configmaps"]),
    ok("get deployment web -n {ns} --subresource=scale", &["DESIRED", "AVAILABLE"]),
    ok("apply -f {dir}/two.yaml", &["configmap/stays created", "configmap/goes created"]),
    ok(
        "apply -f {dir}/one.yaml -n {ns} -l prune=me --prune --prune-allowlist=core/v1/ConfigMap",
        &["configmap/stays unchanged", "configmap/goes pruned"],
    ),
    ok(
        "set env deployment/web -n {ns} --from=configmap/c --prefix=OF_",
        &["deployment.apps/web env updated"],
    ),
    ok("set env deployment/web -n {ns} --list --resolve", &["OF_A=b"]),
    fails("set image deployment/web nobody=x -n {ns}", &["unable to find container named \"nobody\""]),
    fails(
        "set resources deployment/web -n {ns} --requests=cpu=2 --limits=cpu=1",
        &["must be less than or equal to cpu limit of 1"],
    ),
    fails("rollout undo deployment/web -n {ns} --to-revision=99", &["unable to find specified revision 99"]),
    ok("rollout undo deployment/web -n {ns} --dry-run=server", &["rolled back (server dry run)"]),
    ok("annotate deployment web -n {ns} kubernetes.io/change-cause=tried", &["annotate"]),
    since(
        31,
        ok(
            "wait --for=jsonpath={.metadata.generation} deployment/web -n {ns} --timeout=20s",
            &["deployment.apps/web condition met"],
        ),
    ),
    ok("rollout pause deployment/web -n {ns}", &["paused"]),
    fails("rollout pause deployment/web -n {ns}", &["is already paused"]),
    fails("rollout undo deployment/web -n {ns}", &["you cannot rollback a paused deployment"]),
    fails("rollout restart deployment/web -n {ns}", &["can't restart paused deployment"]),
    ok("rollout resume deployment/web -n {ns}", &["resumed"]),
    fails("wait --for=condition=Nothing deployment/web -n {ns} --timeout=1s", &["timed out waiting"]),
    ok("wait --for=delete pod/nothing -n {ns} --timeout=5s", &[]),
    fails("get pods -n {ns} --field-selector=foo=bar", &["field label not supported: foo"]),
    fails("get cm -n {ns} --field-selector=data.a=1", &["is not a known field selector: only"]),
    fails("label cm c -n {ns} bad/=x", &["name part must be non-empty"]),
    ok("get events -n {ns} --sort-by=.lastTimestamp", &["LAST SEEN"]),
    ok("get cm -n {ns} --sort-by={.metadata.creationTimestamp} --chunk-size=1", &["stays"]),
    ok("create token sa -n {ns} --bound-object-kind=Secret --bound-object-name=s", &["."]),
    fails(
        "create token sa -n {ns} --bound-object-kind=Pod --bound-object-name=nothing",
        &["pods \"nothing\" not found"],
    ),
    fails("create token sa -n {ns} --duration=1s", &["may not specify a duration less than 10 minutes"]),
    ok("auth can-i --list -n {ns} --as=system:serviceaccount:{ns}:sa", &["selfsubjectreviews", "/api/*"]),
    since(28, ok("auth whoami --as=joe --as-group=dev", &["joe", "[dev system:authenticated]"])),
    ok("explain hpa --api-version=autoscaling/v1 --recursive", &["targetCPUUtilizationPercentage"]),
    ok("explain netpol --recursive", &["namespaceSelector", "ipBlock"]),
    ok("explain csr --recursive", &["signerName"]),
    ok("explain pv.spec.csi --recursive", &["volumeAttributes"]),
    fails("explain pod.spec.nothing", &["field \"nothing\" does not exist"]),
    ok("config view --minify", &["server: https://"]),
];
