#!/usr/bin/env bash
# Takes away what `make run` made, and nothing else: what `make clean-cluster` does. Packages that it installed,
# Docker if it was started, and the build stay.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

balsa=${BALSA_BIN:-$(target_dir)/release/balsa}
if [ ! -x "$balsa" ]; then
  [ -z "${BALSA_BIN:-}" ] || die "$BALSA_BIN is no program: BALSA_BIN names the balsa to use"
  need_balsa
fi
if ! docker_answers; then die "Docker does not answer, and the containers are there: start it, and run this again"; fi

$SUDO "$balsa" down --data-dir "${BALSA_DATA_DIR:-/var/lib/balsa}"
# The demo's images, which say themselves that they are.
$SUDO docker image ls -q --filter label=phippy.content | sort -u | xargs -r $SUDO docker image rm -f >/dev/null
if [ -n "$SUDO" ]; then rm -f "${XDG_CONFIG_HOME:-$HOME/.config}/balsa/admin.kubeconfig"; fi
say "Nothing of the cluster is left."
