#!/usr/bin/env bash
# Tells Phippy's story to the cluster that KUBECONFIG names: builds her images, applies one chapter
# after the other, and waits each time until it has come true. `--again` starts from the beginning
# where it was told before. Works with kubectl, or without one with the binary that BALSA names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. scripts/lib.sh

balsa=${BALSA:-$(target_dir)/release/balsa}

if [ -n "${KUBECTL:-}" ] || command -v kubectl >/dev/null; then
  k() { "${KUBECTL:-kubectl}" "$@"; }
else
  k() { "$balsa" "$@"; }
fi

# until_true SECONDS COMMAND…: asks again until it says yes; what it said last is shown if it never does.
until_true() {
  local limit=$1 begun=$SECONDS said
  shift
  until said=$("$@" 2>&1); do
    if [ $((SECONDS - begun)) -ge "$limit" ]; then
      printf '%s\n' "$said"
      return 1
    fi
    sleep 0.5
  done
}

node_ready() { k get nodes --no-headers | grep -qE '^[^ ]+ +Ready'; }
account_there() { k get serviceaccount default -n phippy; }
# so_many COUNT LABELS: exactly so many pods are ready, and nobody else is left.
so_many() {
  local rows
  rows=$(k get pods -n phippy -l "$2" --no-headers)
  printf '%s\n' "$rows"
  [ "$(printf '%s\n' "$rows" | grep -cE ' 1/1 +Running ')" = "$1" ] &&
    [ "$(printf '%s\n' "$rows" | grep -c .)" = "$1" ]
}
done_well() { k get pod goldie -n phippy --no-headers | grep -q Completed; }
first_pod() { k get pods -n phippy -l app=phippy -o name | head -n1 | cut -d/ -f2; }
neighbour_sees() {
  k exec -n phippy "$(first_pod)" -- wget -q -O - http://phippy.phippy.svc.cluster.local/ | grep -q 'Phippy'
}
node_addresses() {
  echo 127.0.0.1
  k get nodes -o wide --no-headers | awk '{print $6}'
}
address=
outside_sees() {
  local host node_port
  node_port=$(k get service phippy -n phippy -o 'jsonpath={.spec.ports[0].nodePort}')
  for host in $(node_addresses); do
    if curl -fsS -m 2 "http://$host:$node_port/" 2>/dev/null | grep -q Phippy; then
      echo "http://$host:$node_port/"
      return
    fi
  done
  echo "nobody answers at port $node_port"
  return 1
}
gift_seen() { outside_page | grep -q 'purple kite'; }
outside_page() { curl -fsS -m 2 "$address"; }

# Said last when a step fails: what the cluster has to tell about it.
why() {
  local status=$?
  if [ "$status" = 0 ]; then return; fi
  say "What happened in her namespace:" >&2
  k get events -n phippy --no-headers 2>/dev/null | tail -n 8 >&2
}
trap why EXIT

# chapter FILE: its title, from its first line, and then the manifest.
chapter() {
  say ""
  sed -n '1s/^# //p' "$here/$1"
  step "kubectl apply -f examples/phippy/$1" k apply -f "$here/$1"
}

tell() {
  chapter 01-namespace.yaml
  step "the namespace has its service account" until_true 30 account_there
  chapter 02-pod.yaml
  step "Phippy is in her boat" until_true 60 so_many 1 app=phippy
  chapter 03-replicationcontroller.yaml
  step "there are three of them" until_true 60 so_many 3 app=phippy
  chapter 04-deployment.yaml
  step "three more, kept by the Deployment" until_true 60 so_many 3 app=phippy,family=deployment
  step "the ReplicationController retires" k delete replicationcontroller phippy -n phippy
  step "the first three are gone" until_true 60 so_many 3 app=phippy
  chapter 05-service.yaml
  step "a neighbour finds her by name" until_true 30 neighbour_sees
  chapter 06-volume.yaml
  step "Goldie has been here" until_true 60 done_well
}

say ""
say "Balsa: the story of Phippy"
step "the node is ready" until_true 60 node_ready
step "images phippy:1 and phippy:2" $SUDO "$here/images.sh"
if k get deployment phippy -n phippy >/dev/null 2>&1 && [ "${1:-}" != --again ]; then
  say "  She is at home already."
else
  if [ "${1:-}" = --again ]; then
    step "the old story is put away" k delete namespace phippy --ignore-not-found
  fi
  tell
fi

step "a visitor from outside finds her" until_true 60 outside_sees
address=$(outside_sees)
step "all of them have the gift" until_true 90 so_many 3 app=phippy
step "and it can be seen" until_true 30 gift_seen
say ""
outside_page
say ""
say "Phippy answers at $address"
