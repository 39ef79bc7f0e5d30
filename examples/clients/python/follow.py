#!/usr/bin/env python3
"""Applies two ConfigMaps, and follows the ConfigMaps and Secrets of a namespace over gRPC.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=generated --grpc_python_out=generated proto/balsa/v1/api.proto
    PYTHONPATH=generated python follow.py SERVER CA CERTIFICATE KEY NAMESPACE [LAST]
"""

import json
import random
import sys
import time

import grpc
from balsa.v1 import api_pb2 as v1
from balsa.v1 import api_pb2_grpc as services

SERVER, CA, CERTIFICATE, KEY, NAMESPACE = sys.argv[1:6]
LAST = sys.argv[6] if len(sys.argv) > 6 else None
KINDS = ["configmaps", "secrets"]
APPLIED = ["hello", "world"]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def connect():
    credentials = grpc.ssl_channel_credentials(read(CA), read(KEY), read(CERTIFICATE))
    options = [
        # Lists come in messages of half a MiB, and an object may be larger than that.
        ("grpc.max_receive_message_length", 32 << 20),
        # A name that every server's certificate has.
        ("grpc.ssl_target_name_override", "kubernetes"),
    ]
    return grpc.secure_channel(SERVER, credentials, options)


def apply(objects):
    """Server-side apply, many calls in one stream: the objects are there afterwards, whether they were before or not."""
    calls = (v1.PipelineRequest(id=number, patch=applied(name)) for number, name in enumerate(APPLIED))
    # In no order: their numbers say which they answer.
    for answer in objects.Pipeline(calls):
        if answer.HasField("error"):
            raise SystemExit(f"{answer.error.reason}: {answer.error.message}")
        print(f"applied configmaps/{APPLIED[answer.id]} at {answer.object.revision}", flush=True)


def applied(name):
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"from": "python"}}
    return v1.PatchRequest(
        resource=v1.Resource(plural="configmaps"),
        key=v1.ObjectKey(namespace=NAMESPACE, name=name),
        type=v1.PATCH_TYPE_APPLY,
        patch=json.dumps(wanted).encode(),
        options=v1.WriteOptions(field_manager="example"),
        force=True,
    )


class Followed:
    """What is known of one kind, and up to which revision."""

    def __init__(self, plural):
        self.plural, self.known, self.fresh, self.revision = plural, {}, {}, 0

    def request(self):
        return v1.WatchRequest(
            resource=v1.Resource(plural=self.plural),
            selection=v1.Selection(namespace=NAMESPACE),
            after_revision=self.revision,
        )

    def take(self, event):
        """The line to print, and the name that it is about."""
        kind = v1.WatchEvent.Type.Name(event.type).removeprefix("TYPE_")
        if kind == "SYNCED":
            # Only now is it known what is gone.
            self.known, self.fresh, self.revision = self.fresh, {}, event.revision
            return f"SYNCED {self.plural}", None
        if kind == "BOOKMARK":
            self.revision = max(self.revision, event.revision)
            return None, None
        found = json.loads(event.object.json)
        name = found["metadata"]["name"]
        if self.revision == 0:
            self.fresh[name] = found
        else:
            self.revision = event.revision
            if kind == "DELETED":
                self.known.pop(name, None)
            else:
                self.known[name] = found
        return f"{kind} {self.plural}/{name} {event.revision}", name

    def forget(self):
        """It is too long ago: from the beginning."""
        self.known, self.fresh, self.revision = {}, {}, 0


def follow(objects, followed):
    """Until the stream ends; whether the last name has come."""
    request = v1.WatchManyRequest(watches=[one.request() for one in followed])
    for message in objects.WatchMany(request):
        one = followed[message.watch]
        if message.HasField("error"):
            if message.error.reason == "Expired":
                one.forget()
            return False
        for event in message.events:
            line, name = one.take(event)
            if line:
                print(line, flush=True)
            if name is not None and name == LAST and one.plural == "configmaps":
                return True
    return False


def main():
    objects = services.ObjectServiceStub(connect())
    apply(objects)
    followed, pause = [Followed(plural) for plural in KINDS], 0.1
    while True:
        before = [one.revision for one in followed]
        for one in followed:
            one.fresh = {}
        try:
            if follow(objects, followed):
                return
        except grpc.RpcError as error:
            print(f"broken: {error.code().name} {error.details()}", file=sys.stderr)
        # Where nothing came, wait longer each time.
        pause = 0.1 if before != [one.revision for one in followed] else min(pause * 2, 10)
        time.sleep(pause * random.uniform(0.5, 1))


main()
