#!/usr/bin/env bash
# Builds phippy:1 and phippy:2 from nothing: one static busybox, four small scripts, no network.
# An image that is already there with the same content is left alone.
set -euo pipefail
cd "$(dirname "$0")"

busybox=${BUSYBOX:-$(command -v busybox || true)}
if [ -z "$busybox" ]; then
  echo "busybox is missing: install it (Debian, Ubuntu: apt-get install busybox-static)" >&2
  exit 1
fi
if ldd "$busybox" >/dev/null 2>&1; then
  echo "$busybox is not static: install busybox-static, or set BUSYBOX to a static one" >&2
  exit 1
fi

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

build() { # build VERSION
  local version=$1 root=$stage/$1 sum
  mkdir -p "$root"/{bin,etc,tmp,gift}
  chmod 1777 "$root/tmp"
  cp -R image/. "$root/"
  cp -L "$busybox" "$root/bin/busybox"
  for applet in sh httpd cat sed sleep touch ls wget nslookup hostname env id kill ps; do
    ln -s busybox "$root/bin/$applet"
  done
  echo "$version" >"$root/etc/phippy-version"
  printf 'root:x:0:0::/:/bin/sh\nphippy:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
  chmod -R go+rX "$root"
  sum=$(cd "$root" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
  if [ "$(docker image inspect -f '{{index .Config.Labels "phippy.content"}}' "phippy:$version" 2>/dev/null || true)" = "$sum" ]; then
    return
  fi
  tar -C "$root" --owner=0 --group=0 --numeric-owner -c . |
    docker import \
      --change 'ENV PATH=/bin' \
      --change 'CMD ["/bin/phippy"]' \
      --change 'EXPOSE 8080' \
      --change "LABEL phippy.content=$sum" \
      - "phippy:$version" >/dev/null
}

build 1
build 2
