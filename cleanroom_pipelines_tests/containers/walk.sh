#!/usr/bin/env bash
# Runs data/example/hosts in real containers: builds the image, starts compose.yaml with two workers, runs the demo and
# the data-room example in it, kills a worker during its work, and starts runs with DockerRunLauncher.
# Takes more than 10 minutes on two cores, so .ci/run leaves it out. Needs a running Docker engine, docker-compose or the
# compose plugin, and the images below; where no image registry is reachable, BASE=debootstrap makes them from Debian's
# packages (as root).
#
#   bash cleanroom_pipelines_tests/containers/walk.sh
#   BASE=debootstrap bash cleanroom_pipelines_tests/containers/walk.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
export POSTGRES_PASSWORD=walk IMAGE=cleanroom-walk CLEANROOM_MEMORY=3GB SHARED_FOLDER=$work/shared
export DAGSTER_PORT=${DAGSTER_PORT:-33000} SERVE_PORT=${SERVE_PORT:-38723} COMPOSE_PROJECT_NAME=walk
export COMPOSE_COMPATIBILITY=true  # names such as walk_serve_1 from the compose plugin too
export DAGSTER_YAML=$work/dagster.yaml
base=${BASE:-docker.io/library/python:3.12-slim}

if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi
compose="$compose -f data/example/hosts/compose.yaml"
clean_up() {  # compose knows only its own containers, and cannot remove the network while others use it
  docker ps -aq --filter "ancestor=$IMAGE" | xargs -r docker rm -f
  rm -rf "$work"
  $compose down --volumes
}
trap 'clean_up >/dev/null 2>&1' EXIT

if [ "$base" = debootstrap ]; then
  base=cleanroom-walk-base
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates stable "$work/root" >/dev/null
  rm -rf "$work/root"/var/cache/apt/*.bin "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/lib/apt/lists/*
  # how this machine reaches its package index
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  cp /etc/pip.conf "$work/root/etc/" 2>/dev/null || true
  tar -C "$work/root" -c . | docker import - $base >/dev/null
  export POSTGRES_IMAGE=cleanroom-walk-postgres
  docker build -q --build-arg BASE=$base -t $POSTGRES_IMAGE cleanroom_pipelines_tests/containers/postgres
fi
install -d -o 10001 -m 700 "$SHARED_FOLDER"
cp data/example/hosts/dagster.yaml "$DAGSTER_YAML"
docker build -q --build-arg BASE="$base" -f data/example/hosts/Dockerfile -t $IMAGE .
mb=$(($(docker image inspect -f '{{.Size}}' $IMAGE) / 1000000))
echo "== the image has $mb MB"
[ "$mb" -le 1200 ]

in_serve() { docker exec -i walk_serve_1 "$@"; }
until_true() { for _ in $(seq 300); do if "$@"; then return; fi; sleep 2; done; echo "not within 10 minutes: $*" >&2; return 1; }
is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "walk_$1_1")" = healthy ]; }

echo "== compose up: PostgreSQL, daemon, web server, HTTP server, two workers"
$compose up -d
for service in serve webserver daemon; do until_true is_healthy $service; done

echo "== the root file system is read-only and the user has no privileges"
! in_serve sh -c 'touch /venv/x' 2>/dev/null
[ "$(in_serve sh -c 'id -u; grep CapEff /proc/self/status | cut -f2' | xargs)" = "10001 0000000000000000" ]

echo "== the demo, shared with the daemon and the workers"
in_serve cleanroom demo
until_true in_serve cleanroom run --wait

echo "== the data-room example; a worker is killed during its work"
in_serve sh -s <<'END' &
set -eu
token() { cleanroom user create "$1" >/dev/null; cleanroom token issue "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])'; }
cleanroom example /tmp/example >/dev/null
python3 /tmp/example/data_room.py http://127.0.0.1:8723 \
  "$(token data@publisher.example)" "$(token crm@advertiser.example)" "$(token planner@agency.example)"
END
walk=$!
sleep 20
docker kill -s KILL walk_worker_1 >/dev/null
wait $walk

echo "== DockerRunLauncher: another export is made by a run in a container of its own"
sed -i -n '/^# run_launcher:/,$!p' "$DAGSTER_YAML"
cat >> "$DAGSTER_YAML" <<END
run_launcher:
  module: dagster_docker
  class: DockerRunLauncher
  config:
    image: $IMAGE
    network: cleanroom
    env_vars: [DAGSTER_POSTGRES_URL, CLEANROOM_HOME, CLEANROOM_CATALOG_URL, CLEANROOM_MEMORY]
    container_kwargs:
      read_only: true
      tmpfs: {/tmp: ""}
      cap_drop: [ALL]
      healthcheck: {test: [NONE]}
      volumes: ["$SHARED_FOLDER:/srv/cleanroom"]
END
docker stop walk_worker_2 >/dev/null
socket=$(docker context inspect -f '{{.Endpoints.docker.Host}}' 2>/dev/null || echo unix:///var/run/docker.sock)
docker stop walk_daemon_1 >/dev/null
docker run -d --no-healthcheck --name walk_launcher --network cleanroom --user "10001:$(stat -c %g "${socket#unix://}")" \
  -v "${socket#unix://}:/var/run/docker.sock" -v "$SHARED_FOLDER:/srv/cleanroom" \
  -v "$DAGSTER_YAML:/venv/dagster.yaml:ro" \
  $(docker inspect -f '{{range .Config.Env}}-e {{.}} {{end}}' walk_daemon_1) \
  $IMAGE dagster-daemon run -m cleanroom_pipelines.definitions >/dev/null
in_serve sh -c 'cd /srv/cleanroom/demo && sed "s/exports: \\[10%, 20%\\]/exports: [5%, 10%, 20%]/" cleanroom.yaml > more.yaml && cleanroom apply more.yaml'
until_true sh -c 'docker ps -a --format "{{.Image}} {{.Command}}" --no-trunc | grep -q "dagster api execute_run"'
until_true sh -c 'status=$(docker exec walk_serve_1 cleanroom status) && ! echo "$status" | grep -qE "^(running|waiting):"'
in_serve cleanroom status
in_serve cleanroom status 5% | grep -q ACTIVE
echo "== done"
