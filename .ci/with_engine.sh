#!/usr/bin/env bash
# Run a command beside a Docker engine: the one that answers, else a private one that ends with it.
#
#   .ci/with_engine.sh [--network host|isolated] COMMAND...
#
#   host       no bridge: build and run with --network host; the package registries are reachable
#   isolated   a network of its own (default): bridges, names and published ports, nothing outside
#
# MLCICD_ENGINE_ROOT=FOLDER keeps the private engine's images for the next call; who names it,
# removes it. Exit code 77: there is no engine, and none can be started.
set -euo pipefail

# A private engine and all that it starts live in a process and mount namespace of their own: its
# first process is this function, and when that ends, however it ends, the kernel ends the rest.
inside() {
  local network=$1 root=$2 run=$3
  shift 3
  local -a flags=(--bridge=none --iptables=false --ip-forward=false --ip-masq=false)
  if [ "$network" = isolated ]; then
    ip link set lo up
    flags=()
  fi
  export DOCKER_HOST="unix://$run/docker.sock"
  dockerd --host "$DOCKER_HOST" --data-root "$root" --exec-root "$run/exec" \
    --pidfile "$run/pid" --cgroup-parent "/${run##*/}" "${flags[@]}" >"$run/log" 2>&1 &
  local dockerd=$! tries=0 status=0
  until curl --silent --fail --unix-socket "$run/docker.sock" http://engine/_ping >"$run/ping"; do
    if ! kill -0 $dockerd 2>/dev/null || [ $((tries += 1)) -gt 300 ]; then
      echo "with_engine: the private engine did not start; its last words:" >&2
      tail -n 5 "$run/log" >&2
      exit 1
    fi
    sleep 0.1
  done
  "$@" || status=$?
  kill $dockerd && wait $dockerd || true # SIGTERM: it stops its containers
  exit $status
}

sweep() { # what earlier calls left behind when they were killed: nobody holds the lock of it
  local old
  for old in /tmp/mlcicd-engine.*; do
    if [ -d "$old" ] && [ -n "$(find "$old" -maxdepth 0 -mmin +1)" ]; then
      (flock --nonblock 9 && forget "$old") 9<"$old" || true
    fi
  done
}

forget() {
  rm -rf "$1"
  # Control groups outlive a namespace; empty ones can be removed, from the inside out.
  find /sys/fs/cgroup -depth -type d -path "*/${1##*/}*" -exec rmdir {} + 2>/dev/null || true
}

[ "${1:-}" != --inside ] || inside "${@:2}"

network=isolated
if [ "${1:-}" = --network ]; then
  network=${2:-}
  shift 2
fi
case "$network" in host | isolated) ;; *) set -- ;; esac
[ $# -gt 0 ] || { sed -n 's/^#   \.ci/usage: .ci/p' "$0" >&2; exit 2; }

if docker version >/dev/null 2>&1; then
  DOCKER_HOST="${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}"
  export DOCKER_HOST
  exec "$@"
fi
skip() { echo "containers: SKIPPED: no Docker engine answers, and $1" >&2; exit 77; }
[ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ] || skip "starting a private one needs root on Linux"
for tool in dockerd curl flock setpriv unshare ip; do
  command -v "$tool" >/dev/null || skip "a private one needs '$tool' (apt-get install docker.io)"
done

sweep
run=$(mktemp -d /tmp/mlcicd-engine.XXXXXX)
exec 9<"$run"
flock 9
root=${MLCICD_ENGINE_ROOT:-$run/root}
mkdir -p "$root"
exec 8<"$root"
flock 8 # two engines would break each other's images
isolate=()
[ "$network" = host ] || isolate=(--net)
# A killed script cannot clean up: its children ask the kernel to be killed with it.
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child=KILL --mount-proc \
  "${isolate[@]}" -- "$0" --inside "$network" "$root" "$run" "$@" <&0 &
engine=$!
trap 'kill -KILL $engine; exit 143' TERM INT
trap 'wait $engine 2>/dev/null || true; forget "$run"' EXIT
wait $engine
