//! The commands.

use std::path::Path;

use super::more;

/// A command, whether it works, and what it says.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) command: &'static str,
    pub(crate) works: bool,
    pub(crate) says: &'static [&'static str],
    /// The minor version of the first kubectl that asks for a version of the API that is served.
    pub(crate) since: u32,
}

pub(crate) const fn ok(command: &'static str, says: &'static [&'static str]) -> Row {
    Row { command, works: true, says, since: 0 }
}

pub(crate) const fn fails(command: &'static str, says: &'static [&'static str]) -> Row {
    Row { command, works: false, says, since: 0 }
}

/// What the commands read, with the version's namespace in it.
pub(crate) fn write_files(folder: &Path, namespace: &str) {
    for (name, text) in FILES.iter().chain(more::FILES) {
        std::fs::write(folder.join(name), text.replace("{ns}", namespace)).unwrap();
    }
}

const FILES: &[(&str, &str)] = &[
    ("web.yaml", include_str!("web.yaml")),
    (
        "map.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: '{ns}'}\ndata: {a: '1', b: '2'}\n",
    ),
    (
        "map2.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: '{ns}'}\ndata: {a: '3'}\n",
    ),
    ("widget.yaml", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n"),
    (
        "unknown-field.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: u, namespace: '{ns}'}\ndatum: {a: b}\n",
    ),
    (
        "role.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: '{ns}'}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n",
    ),
    ("patch.json", "{\"data\":{\"c\":\"4\"}}"),
    ("csr.yaml", include_str!("csr.yaml")),
];

/// All commands, in their order.
pub(crate) fn rows() -> Vec<Row> {
    let parts = [META, OBJECTS, WORKLOADS, PODS, ACCESS, CLUSTER, more::MORE, END];
    parts.into_iter().flatten().copied().collect()
}

const META: &[Row] = &[
    ok("version", &["Server Version", "v1.33"]),
    ok("version -o json", &["gitVersion"]),
    ok("cluster-info", &["control plane", "is running at"]),
    ok("api-versions", &["apps/v1", "batch/v1"]),
    ok("api-resources", &["deployments", "deploy", "apps/v1"]),
    ok("api-resources --namespaced=false -o name", &["namespaces", "nodes"]),
    ok("api-resources --api-group=apps --verbs=list -o wide", &["statefulsets", "all"]),
    ok("explain pods", &["KIND:", "Pod"]),
    ok("explain pods.spec.containers --recursive", &["imagePullPolicy"]),
    ok("explain deployment.spec.strategy --api-version=apps/v1", &["rollingUpdate"]),
    fails("explain nonsense", &["nonsense"]),
    ok("get --raw /healthz", &["ok"]),
    ok("get --raw /readyz?verbose", &["[+]ping ok", "readyz check passed"]),
    ok("get --raw /readyz/leader", &["ok"]),
    ok("get --raw /readyz?verbose&exclude=lag", &["[+]lag excluded: ok", "readyz check passed"]),
    ok("get --raw /readyz?verbose&exclude=nonsense", &["no matches for \"nonsense\""]),
    fails("get --raw /readyz/nonsense", &["NotFound"]),
    ok("get --raw /.well-known/openid-configuration", &["https://kubernetes.default.svc", "/openid/v1/jwks"]),
    ok("get --raw /openid/v1/jwks", &["\"kty\":\"EC\"", "\"kid\""]),
    ok("get --raw /openapi/v3", &["apis/apps/v1"]),
    ok("config current-context", &[]),
];

const OBJECTS: &[Row] = &[
    ok("create namespace {ns}", &["namespace/{ns} created"]),
    fails(
        "create namespace {ns}",
        &["Error from server (AlreadyExists): namespaces \"{ns}\" already exists"],
    ),
    ok("wait --for=jsonpath={.status.phase}=Active namespace/{ns} --timeout=20s", &["condition met"]),
    ok("create configmap c --from-literal=a=b -n {ns}", &["configmap/c created"]),
    ok("create secret generic s --from-literal=a=b -n {ns}", &["secret/s created"]),
    ok(
        "create secret docker-registry r --docker-username=u --docker-password=p -n {ns}",
        &["secret/r created"],
    ),
    ok("create serviceaccount sa -n {ns}", &["serviceaccount/sa created"]),
    ok("create quota q --hard=pods=20 -n {ns}", &["resourcequota/q created"]),
    fails(
        "create quota never --hard=cpu=1 --scopes=BestEffort -n {ns}",
        &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
    ),
    ok("create service clusterip svc --tcp=80:8080 -n {ns}", &["service/svc created"]),
    ok("create service nodeport np --tcp=80 -n {ns}", &["service/np created"]),
    ok("create ingress i --rule=a.example.com/=svc:80 -n {ns}", &["ingress.networking.k8s.io/i created"]),
    ok(
        "create pdb pdb --selector=app=web --min-available=1 -n {ns}",
        &["poddisruptionbudget.policy/pdb created"],
    ),
    ok("create priorityclass pc-{ns} --value=5", &["priorityclass.scheduling.k8s.io/pc-{ns} created"]),
    ok("create configmap dry --from-literal=a=b -n {ns} --dry-run=server", &["created (server dry run)"]),
    fails("get configmap dry -n {ns}", &["configmaps \"dry\" not found"]),
    ok("apply -f {dir}/map.yaml", &["configmap/m created"]),
    ok("apply -f {dir}/map.yaml", &["configmap/m unchanged"]),
    fails("diff -f {dir}/map2.yaml", &["-  b: \"2\"", "+  a: \"3\""]),
    ok("apply -f {dir}/map2.yaml", &["configmap/m configured"]),
    ok("diff -f {dir}/map2.yaml", &[]),
    ok("get configmap m -n {ns} -o jsonpath={.data}", &["{\"a\":\"3\"}"]),
    ok("replace -f {dir}/map.yaml", &["configmap/m replaced"]),
    ok("patch configmap m -n {ns} --type=merge --patch-file={dir}/patch.json", &["configmap/m patched"]),
    ok("patch configmap m -n {ns} --type=json -p '[{\"op\":\"remove\",\"path\":\"/data/c\"}]'", &["patched"]),
    ok("patch configmap m -n {ns} -p '{\"data\":{\"d\":\"5\"}}'", &["configmap/m patched"]),
    ok("label configmap m x=y -n {ns}", &["configmap/m labeled"]),
    ok("annotate configmap m x=y -n {ns}", &["configmap/m annotate"]),
    ok("label configmap m x- -n {ns}", &["configmap/m unlabeled"]),
    fails("apply -f {dir}/widget.yaml", &["no matches for kind \"Widget\" in version \"example.com/v1\""]),
    fails("apply -f {dir}/unknown-field.yaml", &["unknown field \"datum\""]),
    ok("apply -f {dir}/unknown-field.yaml --validate=ignore", &["configmap/u created"]),
    fails("get widgets", &["the server doesn't have a resource type \"widgets\""]),
    ok("get configmap -n {ns}", &["NAME", "DATA", "AGE"]),
    ok("get cm,secret,svc,ing,pdb,quota -n {ns} -o wide", &["configmap/m", "service/svc", "resourcequota/q"]),
    ok("get cm -n {ns} -o yaml", &["kind: List"]),
    ok("get cm -n {ns} -o name --chunk-size=1", &["configmap/c", "configmap/m", "configmap/u"]),
    ok("get cm -n {ns} --sort-by=.metadata.name --no-headers", &["c "]),
    ok("get cm -n {ns} -o custom-columns=N:.metadata.name,V:.metadata.resourceVersion", &["N ", "m "]),
    ok("get cm -n {ns} -o go-template='{{range .items}}{{.metadata.name}} {{end}}'", &["c ", "m "]),
    ok("get cm -n {ns} -l x=nothing", &["No resources found"]),
    ok("get cm -n {ns} --field-selector=metadata.name=m --show-labels", &["LABELS"]),
    ok("get cm -A", &["NAMESPACE", "kube-root-ca.crt"]),
    ok("get cm m -n {ns} -w --request-timeout=1s", &["m "]),
    ok("get all -n {ns}", &["service/svc"]),
    ok("describe configmap m -n {ns}", &["Name:", "BinaryData"]),
    ok("describe service svc -n {ns}", &["Type:", "ClusterIP", "Port:"]),
    ok("describe namespace {ns}", &["Status:", "Active"]),
    ok("describe quota q -n {ns}", &["Resource", "Used", "Hard"]),
    ok("describe pdb pdb -n {ns}", &["Min available:"]),
    ok("describe ingress i -n {ns}", &["a.example.com"]),
    ok("delete secret r -n {ns}", &["secret \"r\" deleted"]),
    fails("delete secret r -n {ns}", &["secrets \"r\" not found"]),
    ok("delete secret r -n {ns} --ignore-not-found", &[]),
];

const WORKLOADS: &[Row] = &[
    ok("apply -f {dir}/web.yaml", &["deployment.apps/web created", "statefulset.apps/db created"]),
    ok(
        "wait --for=jsonpath={.status.observedGeneration}=1 deployment/web -n {ns} --timeout=20s",
        &["condition met"],
    ),
    ok("get deploy,rs,sts,ds,job,cj -n {ns} -o wide", &["deployment.apps/web", "IMAGES", "job.batch/once"]),
    ok("describe deployment web -n {ns}", &["Replicas:", "RollingUpdateStrategy", "OldReplicaSets"]),
    ok("describe statefulset db -n {ns}", &["Pods Status:"]),
    ok("describe daemonset each -n {ns}", &["Desired Number of Nodes Scheduled"]),
    ok("describe job once -n {ns}", &["Parallelism:"]),
    ok("describe cronjob tick -n {ns}", &["Schedule:"]),
    ok("scale deployment web --replicas=3 -n {ns}", &["deployment.apps/web scaled"]),
    ok("scale deployment web --current-replicas=3 --replicas=2 -n {ns}", &["deployment.apps/web scaled"]),
    fails(
        "scale deployment web --current-replicas=9 --replicas=2 -n {ns}",
        &["Expected replicas to be 9, was 2"],
    ),
    ok("get deployment web -n {ns} --subresource=scale -o jsonpath={.spec.replicas}", &["2"]),
    ok("get deployment web -n {ns} --subresource=status", &["web"]),
    ok("set image deployment/web web=registry.test/app:v2 -n {ns}", &["image updated"]),
    ok("set env deployment/web A=b -n {ns}", &["env updated"]),
    ok("set resources deployment/web --limits=cpu=200m -n {ns}", &["resource requirements updated"]),
    ok("set serviceaccount deployment/web sa -n {ns}", &["serviceaccount updated"]),
    ok("set selector service svc app=web -n {ns}", &["selector updated"]),
    ok("rollout history deployment/web -n {ns}", &["REVISION"]),
    ok("rollout pause deployment/web -n {ns}", &["paused"]),
    ok("rollout resume deployment/web -n {ns}", &["resumed"]),
    ok("rollout restart deployment/web -n {ns}", &["restarted"]),
    ok("rollout status deployment/web -n {ns} --watch=false", &["Waiting for"]),
    ok("rollout undo deployment/web -n {ns} --to-revision=1", &["rolled back"]),
    ok("expose deployment web --port=80 --name=exposed -n {ns}", &["service/exposed exposed"]),
    ok("create job j2 --from=cronjob/tick -n {ns}", &["job.batch/j2 created"]),
    ok("create deployment d2 --image=registry.test/app:v1 -n {ns}", &["deployment.apps/d2 created"]),
    ok(
        "create cronjob c2 --image=registry.test/app:v1 --schedule='*/5 * * * *' -n {ns}",
        &["cronjob.batch/c2 created"],
    ),
    ok(
        "autoscale deployment web --min=1 --max=3 --cpu-percent=50 -n {ns}",
        &["horizontalpodautoscaler.autoscaling/web autoscaled"],
    ),
    ok("get hpa web -n {ns}", &["Deployment/web", "50%"]),
    ok(
        "get horizontalpodautoscalers.v1.autoscaling web -n {ns} -o jsonpath={.spec.targetCPUUtilizationPercentage}",
        &["50"],
    ),
    ok(
        "patch horizontalpodautoscalers.v1.autoscaling web -n {ns} -p '{\"spec\":{\"targetCPUUtilizationPercentage\":60}}'",
        &["patched"],
    ),
    ok("get hpa web -n {ns} -o jsonpath={.spec.metrics[0].resource.target.averageUtilization}", &["60"]),
    ok("describe hpa web -n {ns}", &["Reference:"]),
    ok("delete deployment d2 --cascade=orphan -n {ns}", &["deployment.apps \"d2\" deleted"]),
    ok("delete cronjob c2 --cascade=foreground -n {ns}", &["deleted"]),
];

const PODS: &[Row] = &[
    ok("run p --image=registry.test/app:v1 -n {ns} --restart=Never", &["pod/p created"]),
    ok("get pod p -n {ns}", &["Pending"]),
    ok("wait --for=condition=PodScheduled=false pod/p -n {ns} --timeout=20s", &["condition met"]),
    ok("describe pod p -n {ns}", &["Status:", "Pending", "QoS Class:"]),
    ok("get events -n {ns}", &["REASON"]),
    ok("events -n {ns} --for=pod/p", &["FailedScheduling"]),
    ok("get events.events.k8s.io -n {ns} --field-selector=regarding.name=p", &["FailedScheduling", "pod/p"]),
    ok("get events.v1.events.k8s.io -n {ns} -o jsonpath={.items[*].note}", &["no nodes available"]),
    ok("debug p --image=registry.test/app:v1 -c dbg -n {ns}", &[]),
    ok("get pod p -n {ns} -o jsonpath={.spec.ephemeralContainers[0].name}", &["dbg"]),
    Row {
        since: 32,
        ..fails(
            "patch pod p -n {ns} --subresource=resize -p '{\"spec\":{\"containers\":[{\"name\":\"p\",\"resources\":{\"requests\":{\"cpu\":\"1\"}}}]}}'",
            &["Pod QOS Class may not change"],
        )
    },
    // It has no node yet.
    ok("logs p -n {ns}", &[]),
    fails("exec p -n {ns} -- true", &["p"]),
    fails("port-forward p 8080:80 -n {ns}", &["p"]),
    fails("cp {dir}/map.yaml {ns}/p:/tmp/x", &[]),
    fails("logs missing -n {ns}", &["pods \"missing\" not found"]),
    ok("delete pod p -n {ns} --grace-period=0 --force", &["pod \"p\" force deleted"]),
    fails("wait --for=condition=Ready pod/p -n {ns} --timeout=1s", &["not found"]),
];

const ACCESS: &[Row] = &[
    ok("auth can-i create pods -n {ns}", &["yes"]),
    ok("auth can-i --list -n {ns}", &["*.*"]),
    Row { since: 28, ..ok("auth whoami", &["Username", "Groups"]) },
    ok("auth reconcile -f {dir}/role.yaml", &["role.rbac.authorization.k8s.io/reader reconciled"]),
    ok("create role r --verb=get --resource=pods -n {ns}", &["created"]),
    ok("create rolebinding rb --role=r --serviceaccount={ns}:sa -n {ns}", &["created"]),
    ok("create clusterrole cr-{ns} --verb=get --resource=nodes", &["created"]),
    ok("create clusterrolebinding crb-{ns} --clusterrole=cr-{ns} --user=u", &["created"]),
    ok("auth can-i get pods -n {ns} --as=system:serviceaccount:{ns}:sa", &["yes"]),
    fails("auth can-i delete pods -n {ns} --as=system:serviceaccount:{ns}:sa", &["no"]),
    fails("get secrets -n {ns} --as=system:serviceaccount:{ns}:sa", &["secrets is forbidden: User"]),
    ok("describe rolebinding rb -n {ns}", &["Subjects:"]),
    ok("describe clusterrole cr-{ns}", &["PolicyRule:"]),
    ok("get roles,rolebindings -n {ns} -o wide", &["ROLE"]),
    ok("create token sa -n {ns}", &["."]),
    ok("delete clusterrole,clusterrolebinding cr-{ns} crb-{ns} --ignore-not-found", &["deleted"]),
];

const CLUSTER: &[Row] = &[
    ok("get nodes", &["No resources found"]),
    fails("cordon missing", &["nodes \"missing\" not found"]),
    fails("drain missing", &["nodes \"missing\" not found"]),
    fails("taint nodes missing a=b:NoSchedule", &["nodes \"missing\" not found"]),
    fails("top nodes", &["etrics"]),
    ok("get sc,pv,pc", &["storageclass.storage.k8s.io/local-path (default)", "system-node-critical"]),
    ok("get ipaddresses", &["services/default/kubernetes"]),
    ok("get servicecidrs", &["kubernetes"]),
    Row {
        since: 29,
        ..ok("get flowschemas", &["PRIORITYLEVEL", "global-default", "probes", "ByNamespace", "False"])
    },
    Row {
        since: 29,
        ..ok("get prioritylevelconfigurations", &["NOMINALCONCURRENCYSHARES", "workload-low", "Exempt"])
    },
    Row { since: 29, ..ok("describe flowschema catch-all", &["Dangling"]) },
    ok("get cs", &["etcd-0", "Healthy", "ok", "controller-manager", "scheduler"]),
    ok(
        "get clusterroles admin -o jsonpath={.rules[*].resources}",
        &["rolebindings", "pods/exec", "configmaps"],
    ),
    ok("apply -f {dir}/csr.yaml", &["csr-{ns} created"]),
    ok("get csr", &["Pending", "kubernetes.io/kube-apiserver-client"]),
    ok("certificate approve csr-{ns}", &["csr-{ns} approved"]),
    Row {
        since: 31,
        ..ok("wait --for=jsonpath={.status.certificate} csr/csr-{ns} --timeout=20s", &["condition met"])
    },
    ok("delete csr csr-{ns}", &["deleted"]),
    ok("get leases -A", &[]),
    ok("get endpoints -n default", &["Warning: v1 Endpoints is deprecated in v1.33+", "kubernetes"]),
    ok("get endpointslices -n default", &["kubernetes"]),
    ok("cluster-info dump --namespaces={ns} --output-directory={dir}/dump", &["Cluster info dumped"]),
];

const END: &[Row] = &[
    ok("delete cm --all -n {ns}", &["configmap \"m\" deleted"]),
    ok("delete svc -l app=web -n {ns}", &[]),
    ok("delete -f {dir}/web.yaml", &["deployment.apps \"web\" deleted"]),
    ok("delete priorityclass pc-{ns}", &["deleted"]),
    ok("delete namespace {ns} --timeout=60s", &["namespace \"{ns}\" deleted"]),
    fails("get namespace {ns}", &["namespaces \"{ns}\" not found"]),
];
