"""The story, told by the official Python client: NAMESPACE MANIFEST.

Everything goes through what a user of the client calls; a wrong answer is an AssertionError or the client's own
exception, and the program ends with 1.
"""

import base64
import faulthandler
import json
import queue
import sys
import threading
import time

import urllib3
import websocket
import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE, MANIFEST = sys.argv[1:]
PATIENCE = 120
# Whoever looks at a story that hangs wants to know where.
faulthandler.dump_traceback_later(200, exit=True)

config.load_kube_config()
core, apps, api = client.CoreV1Api(), client.AppsV1Api(), client.ApiClient()


def until(what, ask):
    """Asks until the answer is true; the answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.2)


def refused(code, reason, call, *arguments, **named):
    """The refusal of a call that must not succeed."""
    try:
        call(*arguments, **named)
    except ApiException as error:
        assert (error.status, reason in error.body) == (code, True), error
        return error
    raise AssertionError(f"{call.__name__}: this should have been refused")


class Watching(threading.Thread):
    """A watch from a list's revision on, in the background."""

    def __init__(self, call, **named):
        super().__init__(daemon=True)
        self.events, self.call, self.named = queue.Queue(), call, named
        self.watch, self.stopping = watch.Watch(), False
        self.start()

    def run(self):
        try:
            for event in self.watch.stream(self.call, timeout_seconds=PATIENCE, **self.named):
                self.events.put((event["type"], event["object"]))
        except urllib3.exceptions.ProtocolError:
            # The client stops a watch by cutting its own connection.
            if not self.stopping:
                raise

    def stop(self):
        self.stopping = True
        self.watch.stop()

    def until(self, kind, name, accept=lambda _: True):
        while True:
            seen, found = self.events.get(timeout=PATIENCE)
            assert seen in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"), (seen, found)
            if seen == kind and found.metadata.name.startswith(name) and accept(found):
                return found


def version():
    assert client.VersionApi().get_code().major == "1"
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= groups, groups


def create():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    refused(
        409, "AlreadyExists", core.create_namespace, client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE))
    )
    with open(MANIFEST) as manifest:
        objects = list(yaml.safe_load_all(manifest))
    for one in objects:
        utils.create_from_dict(api, one, namespace=NAMESPACE)
    until("the deployment is available", lambda: available(2))
    return objects


def available(replicas):
    status = apps.read_namespaced_deployment_status("web", NAMESPACE).status
    return (status.available_replicas, status.updated_replicas, status.replicas) == (replicas,) * 3


def lists():
    pods = core.list_namespaced_pod(NAMESPACE, label_selector="app=web")
    names = sorted(pod.metadata.name for pod in pods.items)
    assert len(names) == 2 and pods.metadata.resource_version.isdigit(), names
    assert all(pod.status.phase == "Running" and pod.status.pod_ip for pod in pods.items)
    paged, page = [], core.list_namespaced_pod(NAMESPACE, limit=1)
    while True:
        paged += [pod.metadata.name for pod in page.items]
        if not page.metadata._continue:
            break
        page = core.list_namespaced_pod(NAMESPACE, limit=1, _continue=page.metadata._continue)
    assert sorted(paged) == names, (paged, names)
    by_field = core.list_pod_for_all_namespaces(field_selector=f"metadata.namespace={NAMESPACE},status.phase=Running")
    assert len(by_field.items) == 2
    refused(404, "NotFound", core.read_namespaced_pod, "nothing", NAMESPACE)
    return names


def writes():
    """Create, replace, and every kind of patch, each seen by a watch."""
    listed = core.list_namespaced_config_map(NAMESPACE)
    seen = Watching(
        core.list_namespaced_config_map, namespace=NAMESPACE, resource_version=listed.metadata.resource_version
    )
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="notes"), data={"a": "1"})
    dry = core.create_namespaced_config_map(NAMESPACE, body, dry_run="All")
    assert dry.metadata.uid
    made = core.create_namespaced_config_map(NAMESPACE, body)
    seen.until("ADDED", "notes")
    stale = made.metadata.resource_version
    made.data["b"] = "2"
    core.replace_namespaced_config_map("notes", NAMESPACE, made)
    seen.until("MODIFIED", "notes", lambda found: found.data == {"a": "1", "b": "2"})
    made.metadata.resource_version = stale
    refused(409, "Conflict", core.replace_namespaced_config_map, "notes", NAMESPACE, made)
    core.patch_namespaced_config_map("notes", NAMESPACE, {"data": {"a": None, "c": "3"}})
    seen.until("MODIFIED", "notes", lambda found: found.data == {"b": "2", "c": "3"})
    core.patch_namespaced_config_map("notes", NAMESPACE, [{"op": "replace", "path": "/data/b", "value": "x"}])
    patched = seen.until("MODIFIED", "notes", lambda found: found.data["b"] == "x")
    assert patched.metadata.resource_version > stale
    bad = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not_A_Name"))
    refused(422, "metadata.name", core.create_namespaced_config_map, NAMESPACE, bad)
    core.delete_namespaced_config_map("notes", NAMESPACE)
    seen.until("DELETED", "notes")
    seen.stop()


def applies(objects):
    """Server-side apply by the dynamic client and by the typed one."""
    resources = dynamic.DynamicClient(api)
    deployments = resources.resources.get(api_version="apps/v1", kind="Deployment")
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    maps = resources.resources.get(api_version="v1", kind="ConfigMap")
    maps.server_side_apply(body=wanted, namespace=NAMESPACE, field_manager="first")
    again = maps.server_side_apply(body=wanted, namespace=NAMESPACE, field_manager="first")
    assert again.metadata.managedFields[0].manager == "first", again
    other = {**wanted, "data": {"a": "2"}}
    try:
        maps.server_side_apply(body=other, namespace=NAMESPACE, field_manager="second")
        raise AssertionError("a conflict was expected")
    except dynamic.exceptions.ConflictError as error:
        assert '\\"first\\"' in error.body, error.body
    forced = maps.server_side_apply(body=other, namespace=NAMESPACE, field_manager="second", force_conflicts=True)
    assert forced.data.a == "2"
    typed = core.patch_namespaced_config_map(
        "applied",
        NAMESPACE,
        {**wanted, "data": {"b": "1"}},
        field_manager="second",
        _content_type="application/apply-patch+yaml",
    )
    assert typed.data == {"b": "1"}, typed.data
    assert deployments.get(name="web", namespace=NAMESPACE).spec.replicas == objects[0]["spec"]["replicas"]


def scales():
    seen = Watching(core.list_namespaced_pod, namespace=NAMESPACE, label_selector="app=web")
    for name in ("web", "web"):
        seen.until("ADDED", name)
    apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 3}})
    seen.until("ADDED", "web")
    until("three are available", lambda: available(3))
    assert apps.read_namespaced_deployment_scale("web", NAMESPACE).status.replicas == 3
    apps.patch_namespaced_deployment("web", NAMESPACE, {"spec": {"replicas": 1}})
    for name in ("web", "web"):
        seen.until("DELETED", name)
    until("one is available", lambda: available(1))
    seen.stop()
    return core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items[0].metadata.name


def reads_logs(pod):
    assert core.read_namespaced_pod_log(pod, NAMESPACE) == "serving\n"
    timed = core.read_namespaced_pod_log(pod, NAMESPACE, timestamps=True, tail_lines=1, container="web")
    assert timed.split()[1] == "serving", timed
    for line in watch.Watch().stream(core.read_namespaced_pod_log, name=pod, namespace=NAMESPACE):
        assert line == "serving", line
        break


def listens(pod):
    """Watches and logs over a WebSocket, as dashboards in browsers follow them."""
    address = api.configuration.host.replace("https", "wss", 1) + f"/api/v1/namespaces/{NAMESPACE}"
    said = api.configuration
    tls = {"ca_certs": said.ssl_ca_cert, "certfile": said.cert_file, "keyfile": said.key_file}

    def opened(path, *protocols):
        return websocket.create_connection(address + path, subprotocols=protocols, sslopt=tls, timeout=PATIENCE)

    seen = opened("/pods?watch=1&labelSelector=app%3Dweb", "any.name")
    assert seen.subprotocol == "any.name"
    event = json.loads(seen.recv())
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", pod), event
    core.patch_namespaced_pod(pod, NAMESPACE, {"metadata": {"annotations": {"seen": "yes"}}})
    while "seen" not in event["object"]["metadata"].get("annotations", {}):
        event = json.loads(seen.recv())
        assert event["type"] == "MODIFIED", event
    seen.close()
    short = opened("/configmaps?watch=1&timeoutSeconds=1&resourceVersion=0")
    while short.recv():
        pass
    short.close()
    assert opened(f"/pods/{pod}/log").recv() == b"serving\n"
    encoded = opened(f"/pods/{pod}/log?follow=1", "nothing.we.know", "base64.binary.k8s.io")
    assert base64.b64decode(encoded.recv()) == b"serving\n"
    encoded.close()
    for path, protocols, code in ((f"/pods/{pod}/log", ["nothing.we.know"], 400), ("/nothing?watch=1", [], 404)):
        try:
            opened(path, *protocols)
            raise AssertionError(f"{path}: this should have been refused")
        except websocket.WebSocketBadStatusException as error:
            assert error.status_code == code, error


def executes(pod):
    def run(command, **streams):
        return stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=command, **streams)

    said = run(["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False)
    assert said == "hello\n", said
    shell = run(["sh"], stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False)
    shell.write_stdin("echo out; echo err >&2; exit 7\n")
    out = err = ""
    while shell.is_open():
        shell.update(timeout=1)
        out += shell.read_stdout() if shell.peek_stdout() else ""
        err += shell.read_stderr() if shell.peek_stderr() else ""
    assert (out, err, shell.returncode) == ("out\n", "err\n", 7), (out, err, shell.returncode)


def forwards(pod):
    forward = portforward(core.connect_get_namespaced_pod_portforward, pod, NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while f"hello from {pod}".encode() not in answer:
        chunk = socket.recv(65536)
        assert chunk, answer
        answer += chunk
    assert answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")), answer
    assert forward.error(8080) is None
    forward.close()
    through = core.connect_get_namespaced_service_proxy("web:http", NAMESPACE)
    assert f"hello from {pod}" in through, through


def deletes():
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    until("its pods are gone", lambda: not core.list_namespaced_pod(NAMESPACE).items)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="!kept")
    core.delete_namespace(NAMESPACE)
    until("the namespace is gone", namespace_is_gone)


def namespace_is_gone():
    try:
        core.read_namespace(NAMESPACE)
        return False
    except ApiException as error:
        assert error.status == 404, error
        return True


def act(told, *arguments):
    """One act of the story, named before it begins: the last name says where it ended."""
    print(told.__name__, flush=True)
    return told(*arguments)


urllib3.disable_warnings()
act(version)
objects = act(create)
act(lists)
act(writes)
act(applies, objects)
pod = act(scales)
act(reads_logs, pod)
act(listens, pod)
act(executes, pod)
act(forwards, pod)
act(deletes)
print("the end")
