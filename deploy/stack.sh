#!/usr/bin/env bash
# The whole stack on the Docker engine that answers.
#
#   deploy/stack.sh up [DAYS]   build, start, wait until all are healthy, deliver DAYS of data (60)
#                               and wait until the sensor has released a version
#   deploy/stack.sh day         deliver one more day, and wait until it is decided
#   deploy/stack.sh down        remove all that it made, and nothing else
#   deploy/stack.sh compose ... docker compose with this stack's settings
#
# What differs by machine may be set in the environment: STACK (its name), PIPELINE_IMAGE,
# SERVING_IMAGE, POSTGRES_IMAGE, REGISTRY_IMAGE, BASE, and the ports below.
set -euo pipefail
cd "$(dirname "$0")"
export STACK=${STACK:-mlcicd}
export PIPELINE_IMAGE=${PIPELINE_IMAGE:-mlcicd-pipeline:latest} SERVING_IMAGE=${SERVING_IMAGE:-mlcicd-serving:latest}
export POSTGRES_IMAGE=${POSTGRES_IMAGE:-postgres:15} REGISTRY_IMAGE=${REGISTRY_IMAGE:-registry:2}
export WEBSERVER_PORT=${WEBSERVER_PORT:-3000} READ_ONLY_PORT=${READ_ONLY_PORT:-3001} MLFLOW_PORT=${MLFLOW_PORT:-5001}
export REGISTRY_PORT=${REGISTRY_PORT:-5055} SERVING_PORT=${SERVING_PORT:-8901}
settings=.env.$STACK

compose() {
  local socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
  socket=${socket#unix://}
  set -a
  . "./$settings"
  set +a
  DOCKER_SOCKET=$socket DOCKER_GROUP=$(stat -c %g "$socket") \
    SERVING_IMAGE_INSIDE=registry:5000/mlcicd-serving@${SERVING_DIGEST:-sha256:$(printf '0%.0s' {1..64})} \
    SERVING_IMAGE_OUTSIDE=127.0.0.1:$REGISTRY_PORT/mlcicd-serving@${SERVING_DIGEST:-sha256:$(printf '0%.0s' {1..64})} \
    "${tool[@]}" --project-name "$STACK" --file compose.yaml "$@"
}

if docker compose version >/dev/null 2>&1; then
  tool=(docker compose)
elif command -v docker-compose >/dev/null; then
  tool=(docker-compose)
else
  echo "stack: neither 'docker compose' nor docker-compose is installed" >&2
  exit 2
fi

secrets() { # made once for each stack, readable by its owner alone
  [ -e "$settings" ] || (
    umask 077
    for name in POSTGRES_PASSWORD MLCICD_TOKEN; do
      echo "$name=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')"
    done >"$settings"
  )
}

push() { # the serving image, so that releases are made on its digest
  local name=127.0.0.1:$REGISTRY_PORT/mlcicd-serving:base digest
  docker tag "$SERVING_IMAGE" "$name"
  until docker push --quiet "$name" >/dev/null 2>&1; do sleep 0.5; done
  digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$name" |
    sed -n "s|^127.0.0.1:$REGISTRY_PORT/mlcicd-serving@||p" | head -n 1)
  sed -i '/^SERVING_DIGEST=/d' "$settings"
  echo "SERVING_DIGEST=$digest" >>"$settings"
}

healthy() { # wait until every service with a health check is healthy
  local deadline=$((SECONDS + 300)) waiting
  while waiting=$(docker ps --all --filter "label=com.docker.compose.project=$STACK" \
    --format '{{.Label "com.docker.compose.service"}} {{.Status}}' | grep -E '\(health: starting\)|\(unhealthy\)|Restarting|Created') ; do
    if [ $SECONDS -gt $deadline ]; then
      echo "stack: not healthy after 300 s:" >&2
      echo "$waiting" >&2
      exit 1
    fi
    sleep 1
  done
}

mlcicd() { compose exec -T code mlcicd "$@"; }

decided() { # how many outcomes the ledger has
  mlcicd history card_fraud 2>/dev/null | grep -cE '  (released|kept|blocked|awaiting)' || true
}

deliver() { # DAYS: and wait until the sensor has had them decided
  local before told deadline=$((SECONDS + 600))
  before=$(decided)
  told=$(mlcicd simulate --days "$1")
  echo "$told"
  if [ "$before" -gt 0 ] && [[ $told == *"(0 new files)"* ]]; then
    mlcicd status
    return
  fi
  echo "waiting for the sensor; look on at http://127.0.0.1:$WEBSERVER_PORT"
  until [ "$(decided)" -gt "$before" ]; do
    if [ $SECONDS -gt $deadline ]; then
      echo "stack: nothing was decided within 600 s; see http://127.0.0.1:$WEBSERVER_PORT/runs" >&2
      exit 1
    fi
    sleep 10 # a look costs a start of Python
  done
  mlcicd status
}

secrets
case "${1:-}" in
  up)
    compose up --detach postgres registry
    push
    compose up --detach
    healthy
    deliver "${2:-60}"
    ;;
  day) deliver "$(($(compose exec -T code sh -c 'ls /data/landing/card_transactions | wc -l') + 1))" ;;
  down)
    compose stop --timeout 60 # the server of containers removes its own
    docker ps --all --quiet --filter "network=$STACK" | xargs --no-run-if-empty docker rm --force --volumes
    compose down --volumes --remove-orphans
    # By name: the same image has names that are not ours. With its last name a digest goes, too.
    docker image ls --digests --format '{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}' \
      "127.0.0.1:$REGISTRY_PORT/mlcicd-serving" | tr ' ' '\n' | grep -v '<none>' | sort -u |
      xargs --no-run-if-empty docker rmi --force 2>&1 >/dev/null | grep -v 'No such image' >&2 || true
    rm -f "$settings"
    ;;
  compose) compose "${@:2}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}" >&2
    exit 2
    ;;
esac
