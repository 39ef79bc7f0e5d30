//! The containers and volumes of a pod or of a template.

use serde_json::Value;

use super::page::{Page, is_true, items, number, or_none, pairs, plain, text, time};

/// Where a list of containers or volumes stands: its heading, its items, and what an item says.
#[derive(Clone, Copy)]
pub(super) struct Indent {
    pub(super) heading: usize,
    pub(super) item: usize,
}

/// That of a pod.
pub(super) const OF_POD: Indent = Indent { heading: 0, item: 2 };
/// That of a template within a workload.
pub(super) const OF_TEMPLATE: Indent = Indent { heading: 2, item: 3 };

const FIELD: usize = 4;

/// The containers of a list, with their statuses if they have any.
pub(super) fn containers(page: &mut Page, indent: Indent, heading: &str, list: &[Value], statuses: &[Value]) {
    if list.is_empty() {
        return;
    }
    page.line(indent.heading, format!("{heading}:"));
    for container in list {
        let name = text(container, "/name");
        page.line(indent.item, format!("{name}:"));
        let status = statuses.iter().find(|status| text(status, "/name") == name);
        let ids = status.map(|status| (text(status, "/containerID"), text(status, "/imageID")));
        ids.iter().for_each(|(id, _)| page.field(FIELD, "Container ID", id));
        page.field(FIELD, "Image", text(container, "/image"));
        ids.iter().for_each(|(_, id)| page.field(FIELD, "Image ID", id));
        ports(page, container);
        for (name, field) in [("Command", "/command"), ("Args", "/args")] {
            words(page, name, items(container, field));
        }
        if let Some(status) = status {
            state(page, "State", &status["state"]);
            if status["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
                state(page, "Last State", &status["lastState"]);
            }
            page.field(FIELD, "Ready", if is_true(status, "/ready") { "True" } else { "False" });
            page.field(FIELD, "Restart Count", number(status, "/restartCount"));
        }
        page.amounts(FIELD, "Limits", &container["resources"]["limits"]);
        page.amounts(FIELD, "Requests", &container["resources"]["requests"]);
        for (name, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            container.get(field).iter().for_each(|told| page.field(FIELD, name, probe(told)));
        }
        environment(page, container);
        mounts(page, container);
    }
}

fn ports(page: &mut Page, container: &Value) {
    let list = items(container, "/ports");
    let plural = if list.len() > 1 { "s" } else { "" };
    for (name, field) in [("Port", "/containerPort"), ("Host Port", "/hostPort")] {
        let port = |port: &Value| format!("{}/{}", number(port, field), text(port, "/protocol"));
        let told = list.iter().map(port).collect::<Vec<_>>().join(", ");
        page.field(FIELD, &format!("{name}{plural}"), or_none(&told));
    }
}

fn words(page: &mut Page, name: &str, words: &[Value]) {
    if !words.is_empty() {
        page.line(FIELD, format!("{name}:"));
    }
    for word in words {
        plain(word).lines().for_each(|line| page.line(FIELD + 2, line));
    }
}

fn state(page: &mut Page, name: &str, state: &Value) {
    if let Some(running) = state.get("running") {
        page.field(FIELD, name, "Running");
        page.field(FIELD, "  Started", time(running, "/startedAt"));
    } else if let Some(ended) = state.get("terminated") {
        page.field(FIELD, name, "Terminated");
        page.field_if(FIELD, "  Reason", text(ended, "/reason"));
        page.field_if(FIELD, "  Message", text(ended, "/message"));
        page.field(FIELD, "  Exit Code", number(ended, "/exitCode"));
        if number(ended, "/signal") > 0 {
            page.field(FIELD, "  Signal", number(ended, "/signal"));
        }
        page.field(FIELD, "  Started", time(ended, "/startedAt"));
        page.field(FIELD, "  Finished", time(ended, "/finishedAt"));
    } else {
        page.field(FIELD, name, "Waiting");
        page.field_if(FIELD, "  Reason", text(state, "/waiting/reason"));
    }
}

fn probe(probe: &Value) -> String {
    let port = |of: &Value| plain(&of["port"]);
    let what = if let Some(exec) = probe.get("exec") {
        let words: Vec<String> = items(exec, "/command").iter().map(plain).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(get) = probe.get("httpGet") {
        let (scheme, host, path) =
            (text(get, "/scheme").to_lowercase(), text(get, "/host"), text(get, "/path"));
        format!("http-get {scheme}://{host}:{}/{}", port(get), path.trim_start_matches('/'))
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(socket, "/host"), port(socket))
    } else {
        format!("grpc <pod>:{} {}", port(&probe["grpc"]), text(probe, "/grpc/service"))
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number(probe, "/initialDelaySeconds"),
        number(probe, "/timeoutSeconds"),
        number(probe, "/periodSeconds"),
        number(probe, "/successThreshold"),
        number(probe, "/failureThreshold"),
    )
}

fn environment(page: &mut Page, container: &Value) {
    let sources = items(container, "/envFrom");
    if !sources.is_empty() {
        page.line(FIELD, "Environment Variables from:");
    }
    for source in sources {
        let (kind, of) = match source.get("configMapRef") {
            Some(of) => ("ConfigMap", of),
            None => ("Secret", &source["secretRef"]),
        };
        let prefix = Some(text(source, "/prefix")).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| format!(" with prefix '{prefix}'")).unwrap_or_default();
        let (name, optional) = (text(of, "/name"), is_true(of, "/optional"));
        page.line(FIELD + 2, format!("{name}\t{kind}{prefix}\tOptional: {optional}"));
    }
    let variables = items(container, "/env");
    match variables {
        [] => page.field(FIELD, "Environment", "<none>"),
        _ => page.line(FIELD, "Environment:"),
    }
    for variable in variables {
        let told = told(variable);
        let mut lines = told.split('\n');
        page.field(FIELD + 2, text(variable, "/name"), lines.next().unwrap_or_default());
        lines.for_each(|line| page.line(FIELD + 2, format!("\t{line}")));
    }
}

/// What a variable is set to, or from.
fn told(variable: &Value) -> String {
    let Some(from) = variable.get("valueFrom") else { return text(variable, "/value").to_owned() };
    let key = |of: &Value| (text(of, "/key").to_owned(), text(of, "/name").to_owned());
    if let Some(secret) = from.get("secretKeyRef") {
        let ((key, name), optional) = (key(secret), is_true(secret, "/optional"));
        format!("<set to the key '{key}' in secret '{name}'>\tOptional: {optional}")
    } else if let Some(map) = from.get("configMapKeyRef") {
        let ((key, name), optional) = (key(map), is_true(map, "/optional"));
        format!("<set to the key '{key}' of config map '{name}'>\tOptional: {optional}")
    } else if let Some(field) = from.get("fieldRef") {
        format!(" ({}:{})", text(field, "/apiVersion"), text(field, "/fieldPath"))
    } else {
        format!(" ({})", text(from, "/resourceFieldRef/resource"))
    }
}

fn mounts(page: &mut Page, container: &Value) {
    let mut list: Vec<&Value> = items(container, "/volumeMounts").iter().collect();
    list.sort_by_key(|mount| text(mount, "/mountPath"));
    match list.as_slice() {
        [] => page.field(FIELD, "Mounts", "<none>"),
        _ => page.line(FIELD, "Mounts:"),
    }
    for mount in list {
        let mut flags = if is_true(mount, "/readOnly") { "ro" } else { "rw" }.to_owned();
        if let Some(path) = mount.get("subPath") {
            flags += &format!(",path={path}");
        }
        page.line(
            FIELD + 2,
            format!("{} from {} ({flags})", text(mount, "/mountPath"), text(mount, "/name")),
        );
    }
}

/// The volumes of a pod's spec.
pub(super) fn volumes(page: &mut Page, indent: Indent, spec: &Value) {
    let list = items(spec, "/volumes");
    match list {
        [] => page.field(indent.heading, "Volumes", "<none>"),
        _ => page.line(indent.heading, "Volumes:"),
    }
    for volume in list {
        page.line(indent.item, format!("{}:", text(volume, "/name")));
        let source = volume.as_object().into_iter().flatten().find(|(name, _)| *name != "name");
        source.iter().for_each(|(kind, source)| one_volume(page, kind, source));
    }
}

fn one_volume(page: &mut Page, kind: &str, source: &Value) {
    let mut fields = |kind: &str, fields: &[(&str, String)]| {
        page.field(FIELD, "Type", kind);
        fields.iter().for_each(|(name, value)| page.field(FIELD, name, value));
    };
    let own = |pointer: &str| text(source, pointer).to_owned();
    let optional = ("Optional", is_true(source, "/optional").to_string());
    match kind {
        "emptyDir" => {
            let limit = source.get("sizeLimit").map_or("<unset>".to_owned(), plain);
            fields(
                "EmptyDir (a temporary directory that shares a pod's lifetime)",
                &[("Medium", own("/medium")), ("SizeLimit", limit)],
            );
        }
        "configMap" => {
            fields("ConfigMap (a volume populated by a ConfigMap)", &[("Name", own("/name")), optional])
        }
        "secret" => {
            fields("Secret (a volume populated by a Secret)", &[("SecretName", own("/secretName")), optional])
        }
        "hostPath" => fields(
            "HostPath (bare host directory volume)",
            &[("Path", own("/path")), ("HostPathType", own("/type"))],
        ),
        "persistentVolumeClaim" => fields(
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
            &[("ClaimName", own("/claimName")), ("ReadOnly", is_true(source, "/readOnly").to_string())],
        ),
        "projected" => {
            let kind = "Projected (a volume that contains injected data from multiple sources)";
            let sources: Vec<_> = items(source, "/sources").iter().flat_map(projected).collect();
            fields(kind, &sources);
        }
        other => fields(other, &[]),
    }
}

fn projected(source: &Value) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    if let Some(token) = source.get("serviceAccountToken") {
        fields.push(("TokenExpirationSeconds", number(token, "/expirationSeconds").to_string()));
    }
    for (field, name) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
        if let Some(of) = source.get(field) {
            fields.push((name, text(of, "/name").to_owned()));
            fields.push(("Optional", is_true(of, "/optional").to_string()));
        }
    }
    if source.get("downwardAPI").is_some() {
        fields.push(("DownwardAPI", "true".to_owned()));
    }
    fields
}

/// Where pods of a spec may run.
pub(super) fn placement(page: &mut Page, indent: usize, spec: &Value) {
    page.values(indent, "Node-Selectors", &pairs(spec, "/nodeSelector"));
    let mut tolerations: Vec<String> = items(spec, "/tolerations").iter().map(toleration).collect();
    tolerations.sort();
    page.values(indent, "Tolerations", &tolerations);
}

fn toleration(toleration: &Value) -> String {
    let part = |separator: &str, pointer: &str| match text(toleration, pointer) {
        "" => String::new(),
        value => format!("{separator}{value}"),
    };
    let mut told = part("", "/key") + &part("=", "/value") + &part(":", "/effect");
    if text(toleration, "/operator") == "Exists" && text(toleration, "/value").is_empty() {
        let gap = if text(toleration, "/key").is_empty() && text(toleration, "/effect").is_empty() {
            ""
        } else {
            " "
        };
        told += &format!("{gap}op=Exists");
    }
    match toleration.get("tolerationSeconds") {
        Some(seconds) => format!("{told} for {seconds}s"),
        None => told,
    }
}
