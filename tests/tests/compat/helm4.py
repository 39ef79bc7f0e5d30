"""A release's life, told by the SDK of Helm 4: CHART FIRST_IMAGE SECOND_IMAGE."""

import sys

import helm_python as helm
from kubernetes import client, config

CHART, FIRST, SECOND = sys.argv[1:]
NAMESPACE, NAME = "helm4", "shop"
PATIENCE = 120

assert helm.helm_sdk_version().startswith("v4."), helm.helm_sdk_version()
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()


def running():
    """What runs: images, replicas that are available, and the page."""
    deployment = apps.read_namespaced_deployment(NAME, NAMESPACE)
    images = [container.image for container in deployment.spec.template.spec.containers]
    page = core.read_namespaced_config_map(NAME, NAMESPACE).data["index.html"]
    return images, deployment.status.available_replicas, page


def fails(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except helm.HelmError as error:
        return str(error)
    raise AssertionError(f"{call.__name__}: this should have failed")


assert helm.lint(CHART)["errors"] == []
with helm.Config(namespace=NAMESPACE) as releases, helm.Chart.load(CHART) as chart:
    releases.check_reachable()
    dry = releases.install(chart, NAME, {"image": FIRST}, dry_run="server", create_namespace=True)
    assert dry["manifest"] and releases.list() == []

    waiting = {"wait": "watcher", "timeout": PATIENCE}
    made = releases.install(chart, NAME, {"image": FIRST}, create_namespace=True, **waiting)
    assert (made["revision"], made["status"]) == (1, "deployed"), made
    assert running() == ([FIRST], 2, "good morning from revision 1"), running()
    managers = {entry.manager for entry in core.read_namespaced_config_map(NAME, NAMESPACE).metadata.managed_fields}
    operations = {entry.operation for entry in core.read_namespaced_config_map(NAME, NAMESPACE).metadata.managed_fields}
    assert operations == {"Apply"}, (managers, operations)

    tested = releases.test(NAME, timeout=PATIENCE, logs=True)
    assert "good morning from revision 1" in tested["logs"], tested

    changed = releases.upgrade(chart, NAME, {"image": SECOND, "replicas": 1, "greeting": "good evening"}, **waiting)
    assert (changed["revision"], changed["status"]) == (2, "deployed"), changed
    assert running() == ([SECOND], 1, "good evening from revision 2"), running()

    # A hook that fails stops the upgrade, and what runs stays.
    fails(releases.upgrade, chart, NAME, {"image": FIRST, "greeting": "fail"}, **waiting)
    assert running() == ([SECOND], 1, "good evening from revision 2"), running()
    assert [one["status"] for one in releases.history(NAME)] == ["superseded", "deployed", "failed"]

    releases.rollback(NAME, version=1, **waiting)
    assert running() == ([FIRST], 2, "good morning from revision 1"), running()
    assert releases.status(NAME)["revision"] == 4
    everywhere = releases.list(all_namespaces=True, name_filter="^shop$")
    assert (NAME, NAMESPACE) in [(one["name"], one["namespace"]) for one in everywhere], everywhere

    releases.uninstall(NAME, wait="watcher", timeout=PATIENCE)
    assert releases.list(all_states=True) == []
    assert fails(releases.status, NAME)
    for left in (core.list_namespaced_service, apps.list_namespaced_deployment, core.list_namespaced_secret):
        assert not left(NAMESPACE).items, left(NAMESPACE).items
core.delete_namespace(NAMESPACE)
print("the end")
