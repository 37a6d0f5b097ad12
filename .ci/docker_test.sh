#!/usr/bin/env bash
# Build both images, test them beside an engine, and say in one table how that went.
# DOCKER_TESTS: what to give pytest instead of the tests marked `docker`.
# BASE names the base image; where it cannot be pulled, a stand-in of this machine's packages serves.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
# Removing the 5 GB of a private engine took two minutes: with memory enough they lie there, in a
# mount namespace that ends with this script.
if [ -z "${IN_MEMORY:-}" ] && [ "$(id -u)" = 0 ] &&
  awk '/^MemAvailable/ {exit $2 < 12e6}' /proc/meminfo 2>/dev/null; then
  IN_MEMORY=1 exec unshare --mount "$0"
fi
rows=() pulled=()

step() { # NAME COMMAND...: run it, note seconds and outcome
  local name=$1 start=$SECONDS status=0
  shift
  outcome=passed
  echo "--- $name"
  "$@" || status=$?
  [ $status = 0 ] || outcome=FAILED
  rows+=("$(printf '%-28s %7d  %s' "$name" $((SECONDS - start)) "$outcome")")
  return $status
}

host() { .ci/with_engine.sh --network host "$@"; }
isolated() { .ci/with_engine.sh --network isolated "$@"; }

audit() {
  local ask=("$bin/pip-audit" --strict --disable-pip --progress-spinner off) lock
  # An old version known to be bad: who finds nothing there would find nothing anywhere.
  if ! "${ask[@]}" --no-deps --requirement <(echo 'pyyaml==5.3') 2>&1 | grep -qE 'CVE|GHSA|PYSEC'; then
    outcome="SKIPPED: no vulnerability service answers"
    echo "pip-audit: $outcome"
    return
  fi
  for lock in deploy/pipeline.lock deploy/serving.lock; do
    "${ask[@]}" --require-hashes --requirement "$lock" || return
  done
}

images() { # VARIABLE KIND IMAGE ...: pull each, or make the stand-in of its kind
  local made=() how
  while [ $# -gt 0 ]; do
    how=$(host sh -c 'docker image inspect "$0" >/dev/null && echo here ||
      { timeout 60 docker pull --quiet "$0" >/dev/null && echo pulled; }' "$3" 2>/dev/null) || how=
    export "$1=$3"
    case $how in
      here) ;;
      pulled) pulled+=("$3") ;;
      *)
        export "$1=mlcicd-stand-in-$2:$TAG"
        host .ci/stand_in_image.sh "$2" "mlcicd-stand-in-$2:$TAG" >/dev/null || return
        made+=("$2")
        ;;
    esac
    shift 3
  done
  [ ${#made[@]} = 0 ] || outcome="passed, with stand-ins: ${made[*]}"
}

inventory() {
  isolated bash -c 'docker ps --all --format "container {{.Names}}"
    docker network ls --format "network {{.Name}}"
    docker volume ls --format "volume {{.Name}}"
    docker image ls --format "image {{.Repository}}:{{.Tag}}"' | sort
}

forget_images() {
  isolated bash -c 'docker image rm $(docker image ls --format "{{.Repository}}:{{.Tag}}" |
    grep ":$TAG\$") "$@" >/dev/null' "$0" "${pulled[@]}"
}

nothing_left() {
  local after
  forget_images || return
  after=$(inventory)
  diff <(echo "$before") <(echo "$after") || return
  outcome="passed: $(echo "$after" | cut -d' ' -f1 | sort | uniq -c | awk '{printf "%s%d %ss", c, $1, $2; c=", "}') before and after"
}

remove() {
  [ -z "${IN_MEMORY:-}" ] || umount --lazy "$work"
  rm -rf "$work"
}

finish() {
  local status=$?
  [ $status = 0 ] || forget_images || true
  remove
  echo
  printf '%-28s %7s  %s\n' step seconds outcome
  printf '%s\n' "${rows[@]}"
  exit $status
}

if [ -n "${IN_MEMORY:-}" ]; then
  work=$PWD/dist/engine
  mkdir -p "$work"
  mount -t tmpfs -o size=10g tmpfs "$work"
else # a killed run leaves it: with_engine.sh sweeps folders of this name that nobody holds
  work=$(mktemp -d /tmp/mlcicd-engine.XXXXXX)
  exec 7<"$work"
  flock 7
fi
export MLCICD_ENGINE_ROOT=$work/root TAG=docker-test
export TEST_PIPELINE_IMAGE=mlcicd-pipeline:$TAG TEST_SERVING_IMAGE=mlcicd-serving:$TAG
trap remove EXIT

status=0
before=$(inventory) || status=$?
if [ $status = 77 ] && [ -z "${MLCICD_REQUIRE_DOCKER:-}" ]; then exit 0; fi
[ $status = 0 ] || exit $status
trap finish EXIT

step "lint deploy/Dockerfile" "$bin/hadolint" deploy/Dockerfile
step "pip-audit of the locks" audit
step "base images" images BASE python "${BASE:-python:3.11-slim-bookworm}" \
  TEST_POSTGRES_IMAGE postgres postgres:15 TEST_REGISTRY_IMAGE registry registry:2
export BASE
step "build pipeline and serving" host make --no-print-directory images BUILD_ARGS="--network host"
step "tests" isolated "$bin/pytest" -n 2 --dist loadfile -p no:cacheprovider --durations=8 \
  ${DOCKER_TESTS:--m docker mlcicd_assets_tests/docker}
while read -r size image; do
  rows+=("$(printf '%-28s %7s  %d MB unpacked' "$image" "" $((size / 1000000)))")
done < <(isolated docker image inspect --format '{{.Size}} {{index .RepoTags 0}}' \
  "$TEST_PIPELINE_IMAGE" "$TEST_SERVING_IMAGE")
step "nothing left behind" nothing_left
