#!/usr/bin/env bash
# A cluster on this machine with the demo in it, from nothing: what `make run` does.
# Ctrl-C stops the servers and leaves the containers running; another run adopts them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

data=${BALSA_DATA_DIR:-/var/lib/balsa}
log=$data/balsa.log
kubeconfig=$data/admin.kubeconfig

say "Balsa: what is needed"
need_packages
if [ -z "${BALSA_BIN:-}" ]; then need_rust; fi
need_docker

say "Balsa: the program"
need_balsa

say "Balsa: the cluster"
cluster_runs() {
  local pid
  pid=$($SUDO cat "$data/balsa.pid" 2>/dev/null) && $SUDO readlink "/proc/$pid/exe" | grep -q /balsa
}

# In the background, so that Ctrl-C comes here and is passed on once, whatever it hits.
stop() {
  trap '' INT TERM
  say ""
  say "Stopping the servers. The containers stay: make run takes them up again, make clean-cluster removes all."
  if cluster_runs; then $SUDO kill -TERM "$($SUDO cat "$data/balsa.pid")"; fi
  while cluster_runs; do sleep 0.2; done
  exit "${1:-0}"
}
trap stop INT TERM

if cluster_runs; then
  say "  It runs already."
else
  $SUDO "$balsa" up --detach --data-dir "$data" || stop 1
fi
# The kubeconfig belongs to root; who is not root gets a copy.
if [ -n "$SUDO" ]; then
  copy=${XDG_CONFIG_HOME:-$HOME/.config}/balsa/admin.kubeconfig
  mkdir -p "$(dirname "$copy")"
  $SUDO cat "$kubeconfig" | (umask 077 && cat >"$copy")
  kubeconfig=$copy
fi
export KUBECONFIG=$kubeconfig BALSA=$balsa

SUDO=$SUDO examples/phippy/tell.sh || { $SUDO tail -n 20 "$log" >&2; stop 1; }

say ""
say "The cluster runs until Ctrl-C. In another terminal:"
say "  export KUBECONFIG=$kubeconfig"
say "  kubectl get pods -A"
say "  kubectl -n phippy set image deployment/phippy phippy=phippy:2     (her yellow coat)"
say "  kubectl -n phippy rollout undo deployment/phippy                  (and back)"
say "Without kubectl: $balsa get pods -A"
while cluster_runs; do sleep 1; done
$SUDO tail -n 20 "$log" >&2
die "the cluster has stopped by itself; its log is $log"
