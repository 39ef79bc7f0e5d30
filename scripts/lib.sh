# Shared by the scripts beside it: saying what happens, and installing what is missing.
# Sourced, never run. Bash.

# C and C++ objects are taken from ccache where it is installed (RocksDB is half an hour of processor
# time). Only PATH changes: other flags or compilers would build it anew.
if [ -d /usr/lib/ccache ]; then export PATH=/usr/lib/ccache:$PATH; fi
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}
# rustup puts itself there; a shell that is older than it does not know yet.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
  export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
# nft and iptables live in sbin, which is not in everybody's PATH.
export PATH=$PATH:/usr/sbin:/sbin

SUDO=
if [ "$(id -u)" != 0 ]; then SUDO=sudo; fi

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$PWD/target}"; }
# Where scripts/clients.sh puts other people's programs; tests/tests/compat looks there too.
clients_dir() { printf '%s' "${BALSA_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/balsa/clients}"; }

say() { printf '%s\n' "$*"; }
die() { printf 'balsa: %s\n' "$*" >&2; exit 1; }

# step TEXT COMMAND…: runs it; on a terminal with a running clock, elsewhere with one line before and
# one after. What it prints is shown only when it fails.
step() {
  local text=$1 out begun=$SECONDS status=0 pid
  shift
  out=$(mktemp)
  "$@" >"$out" 2>&1 </dev/null &
  pid=$!
  if [ -t 1 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r  … %s (%ds)' "$text" $((SECONDS - begun))
      sleep 0.2
    done
  else
    printf '  … %s\n' "$text"
  fi
  wait "$pid" || status=$?
  if [ -t 1 ]; then printf '\r\033[K'; fi
  if [ "$status" = 0 ]; then
    printf '  ✓ %s (%ds)\n' "$text" $((SECONDS - begun))
  else
    printf '  ✗ %s\n' "$text" >&2
    cat "$out" >&2
  fi
  rm -f "$out"
  return "$status"
}

# What each thing that we call is called in Debian.
PACKAGES='dockerd:docker.io docker:docker.io nft:nftables iptables:iptables ip:iproute2 conntrack:conntrack
clang:clang g++:g++ make:make ccache:ccache curl:curl mount:mount'

# What the tests call besides.
TEST_PACKAGES='mkfs.ext4:e2fsprogs nsenter:util-linux'

# missing_packages PAIR…: of what is called always, and of the given.
missing_packages() {
  local pair found=
  for pair in $PACKAGES "$@"; do
    command -v "${pair%%:*}" >/dev/null || found="$found ${pair#*:}"
  done
  # bindgen, which RocksDB's bindings are made with, loads the library itself.
  if ! has_libclang; then found="$found libclang-dev"; fi
  if ! has_static_busybox; then found="$found busybox-static"; fi
  printf '%s\n' $found | sort -u
}

has_libclang() {
  [ -n "$(find "${LIBCLANG_PATH:-/usr/lib}" /usr/lib /usr/lib64 /usr/local/lib -maxdepth 3 -name 'libclang*.so*' -print -quit 2>/dev/null)" ]
}

has_static_busybox() {
  local path
  path=$(command -v busybox) && ! ldd "$path" >/dev/null 2>&1
}

install_packages() {
  $SUDO apt-get update &&
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# Debian's newer releases have the docker command in a package of its own.
docker_command() {
  command -v docker >/dev/null && return
  $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker-cli
}

need_packages() {
  local missing
  missing=$(missing_packages "$@" | tr '\n' ' ')
  missing=${missing% }
  if [ -z "$missing" ]; then return; fi
  if ! command -v apt-get >/dev/null; then
    die "missing: $missing (these are Debian's names). Install them with this system's packager and run it again."
  fi
  if [ -n "$SUDO" ] && ! command -v sudo >/dev/null; then
    die "missing: $missing. Run as root: apt-get install $missing"
  fi
  step "installing $missing" install_packages $missing
  step "docker's command" docker_command
  if [ -d /usr/lib/ccache ]; then export PATH=/usr/lib/ccache:$PATH; fi
}

# Programs that suites start themselves, on ports of their own. They are taken out of their packages: a package that
# is installed would start its service, for everybody and for good.
TOOLS='docker-registry:docker-registry'

# fetch_tools DIR PACKAGE…: unpacks packages and installs nothing.
fetch_tools() {
  local directory=$1 package
  shift
  mkdir -p "$directory"
  for package in "$@"; do
    (
      cd "$directory"
      apt-get download "$package" || { $SUDO apt-get update && apt-get download "$package"; }
      dpkg-deb -x "$package"_*.deb .
      rm -f "$package"_*.deb
    )
  done
}

# They end up in PATH, after what the machine has.
need_tools() {
  local directory pair missing=
  directory=$(target_dir)/tools
  export PATH=$PATH:$directory/usr/bin
  for pair in $TOOLS; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
  done
  if [ -z "$missing" ]; then return; fi
  if ! command -v apt-get >/dev/null; then
    die "missing:$missing (these are Debian's names). Put their programs into PATH and run it again."
  fi
  step "fetching$missing" fetch_tools "$directory" $missing
}

# Rust's own installer, checked by its sum, for this user alone. Debian's Rust is too old.
install_rust() {
  local from=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu directory status=0
  directory=$(mktemp -d)
  (
    cd "$directory" &&
      curl --proto '=https' --tlsv1.2 -fsSL --remote-name-all "$from/rustup-init" "$from/rustup-init.sha256" &&
      printf '%s  rustup-init\n' "$(cut -c1-64 rustup-init.sha256)" | sha256sum --check --quiet &&
      chmod +x rustup-init &&
      ./rustup-init -y --no-modify-path --profile minimal --component clippy,rustfmt
  ) || status=$?
  rm -rf "$directory"
  return "$status"
}

need_rust() {
  local home=${CARGO_HOME:-$HOME/.cargo}
  if ! command -v cargo >/dev/null; then
    if ! command -v curl >/dev/null; then die "Rust and curl are missing. Install them, and run this again."; fi
    step "installing Rust into $home" install_rust || die "Rust is not installed; https://rustup.rs tells how"
    export PATH=$home/bin:$PATH
  fi
  local have want
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n1)" != "$want" ]; then
    die "Rust $have is too old, $want or later is needed: rustup update stable"
  fi
}

docker_answers() { $SUDO docker info >/dev/null 2>&1; }

wait_for_docker() {
  local begun=$SECONDS
  until docker_answers; do
    if [ $((SECONDS - begun)) -ge "$1" ]; then return 1; fi
    sleep 0.5
  done
}

start_docker() {
  if [ -d /run/systemd/system ]; then
    $SUDO systemctl start docker && wait_for_docker 60 && return
  elif command -v service >/dev/null; then
    $SUDO service docker start && wait_for_docker 20 && return
  fi
  # No init system, as in a container: the daemon by itself. It outlives this script.
  local log=/var/log/balsa-dockerd.log
  $SUDO sh -c "setsid dockerd >$log 2>&1 </dev/null &"
  wait_for_docker 60 && return
  # Where the usual storage cannot be used, the plain one always can.
  $SUDO sh -c "setsid dockerd --storage-driver=vfs >>$log 2>&1 </dev/null &"
  wait_for_docker 60 && return
  $SUDO tail -n 20 $log
  echo "Docker does not start; its log is $log"
  return 1
}

need_docker() {
  if docker_answers; then return; fi
  step "starting Docker" start_docker || exit 1
}

# The program, as `balsa`: the one that BALSA_BIN names, which is there already, or else one that is built here.
need_balsa() {
  balsa=${BALSA_BIN:-$(target_dir)/release/balsa}
  if [ -n "${BALSA_BIN:-}" ]; then return; fi
  building release cargo build --release -p balsa
}

# git on this repository, also for root when it is somebody else's.
repository() { git -c safe.directory="$PWD" "$@"; }

# The commit whose program is run beside this one's, and where that program is kept.
previous_commit() { cut -d' ' -f1 tests/previous-build; }
previous_program() { printf '%s' "$(target_dir)/previous/$(previous_commit)/balsa"; }
# Whether it is built already, or can be: a shallow clone has no earlier commits.
previous_is_there() {
  [ -x "$(previous_program)" ] || repository cat-file -e "$(previous_commit)^{commit}" 2>/dev/null
}
previous_missing() {
  printf '%s' "NOT TESTED: rolling upgrades. This clone lacks commit $(previous_commit), whose program the test runs \
beside this one's. Get it and run the tests again: git fetch --unshallow"
}

# building PROFILE COMMAND…: runs it, says before RocksDB is compiled for the first time that it takes long, and then how
# far that is: cargo counts crates, and its bar stands still meanwhile.
building() {
  local profile=$1 watcher= status=0
  shift
  if ! ls "$(target_dir)/$profile"/build/librocksdb-sys-*/out/librocksdb.a >/dev/null 2>&1; then
    say "The first build takes long: a quarter of an hour on two cores, because of RocksDB. Later ones do not."
    rocksdb_progress "$profile" &
    watcher=$!
  fi
  "$@" || status=$?
  if [ -n "$watcher" ]; then kill "$watcher" 2>/dev/null || true; fi
  return "$status"
}

# rocksdb_progress PROFILE: a line every ten seconds in which files were compiled, until somebody ends it.
rocksdb_progress() {
  local files done told=0 over=
  # Over cargo's bar, which is drawn again when it has news.
  if [ -t 2 ]; then over=$'\r\033[K'; fi
  files=${CARGO_HOME:-$HOME/.cargo}/registry/src/*/librocksdb-sys-*/rocksdb_lib_sources.txt
  while sleep 10 >/dev/null 2>&1; do
    done=$(find "$(target_dir)/$1"/build/librocksdb-sys-*/out -maxdepth 1 -name '*.o' 2>/dev/null | wc -l)
    if [ "$done" -gt "$told" ]; then
      # shellcheck disable=SC2086 # a pattern
      printf '%s     RocksDB: %d of %d files are compiled\n' "$over" "$done" "$(cat $files 2>/dev/null | wc -w)" >&2
    fi
    told=$done
  done
}
