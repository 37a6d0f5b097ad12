#!/usr/bin/env bash
# TEST ONLY, never to be pushed: an image from this machine's own Debian packages, for tests where no
# image registry can be reached.
#
#   .ci/stand_in_image.sh python|postgres|registry NAME
#
# python stands in for python:3.11-slim-bookworm, postgres for postgres:15 (POSTGRES_USER,
# POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB), registry for registry:2 (port 5000).
set -euo pipefail
[ $# = 2 ] || { sed -n 's/^#   \.ci/usage: .ci/p' "$0" >&2; exit 2; }
kind=$1 name=$2
stage=$(mktemp -d)
files=$(mktemp)
trap 'rm -rf "$stage" "$files"' EXIT

mkdir -p "$stage"/{dev,etc,opt,proc,run,sys,usr/local/bin,var/lib}
touch "$stage"/etc/{hosts,resolv.conf} # where a build mounts its own
mkdir -m 1777 "$stage/tmp"
for folder in bin sbin lib lib64; do # a list of dpkg knows nothing of the merged /usr
  ln -s "usr/$folder" "$stage/$folder"
done
echo 'root:x:0:0::/root:/bin/sh' >"$stage/etc/passwd"
echo 'root:x:0:' >"$stage/etc/group"
packages=(base-files bash coreutils dash findutils grep libc-bin sed)
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
never='^$'
changes=()

case $kind in
  python)
    # Wheels want libstdc++6; Debian's Python alone does not.
    packages+=(libstdc++6 netbase python3 python3.11 python3-venv python3.11-venv tzdata)
    ln -s /usr/bin/python3 "$stage/usr/local/bin/python"
    changes+=('CMD ["python"]')
    ;;
  postgres)
    packages+=(postgresql-15 tzdata)
    never='^(perl.*|libperl.*|libllvm.*|systemd.*|python3.*|libpython3.*|adduser|ssl-cert|ucf)$'
    path=/usr/lib/postgresql/15/bin:$path
    echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>"$stage/etc/passwd"
    echo 'postgres:x:999:' >>"$stage/etc/group"
    mkdir -p "$stage/var/lib/postgresql/data" "$stage/run/postgresql"
    chown -R 999:999 "$stage/var/lib/postgresql" "$stage/run/postgresql"
    cat >"$stage/usr/local/bin/entrypoint" <<'SCRIPT'
#!/bin/sh
# TEST ONLY: as much of the official image's entrypoint as our tests use.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
  : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE}"
  user=${POSTGRES_USER:-postgres} database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
  (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password)
  initdb --username="$user" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  if [ "$database" != postgres ]; then
    echo "CREATE DATABASE \"$database\"" | postgres --single -j postgres >/dev/null
  fi
fi
unset POSTGRES_PASSWORD
exec "$@"
SCRIPT
    chmod 755 "$stage/usr/local/bin/entrypoint"
    changes+=('ENTRYPOINT ["entrypoint"]' 'CMD ["postgres"]' 'USER postgres' 'EXPOSE 5432'
      'ENV PGDATA=/var/lib/postgresql/data' 'VOLUME /var/lib/postgresql/data')
    ;;
  registry)
    packages+=(docker-registry)
    never='^(systemd.*|adduser|perl.*|passwd)$'
    mkdir -p "$stage/etc/registry" "$stage/var/lib/registry"
    cat >"$stage/etc/registry/config.yml" <<'CONFIG'
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: ":5000"}
CONFIG
    changes+=('ENTRYPOINT ["docker-registry"]' 'CMD ["serve", "/etc/registry/config.yml"]'
      'EXPOSE 5000' 'VOLUME /var/lib/registry')
    ;;
  *) echo "there is no stand-in for '$kind': python, postgres or registry" >&2; exit 2 ;;
esac

for package in "${packages[@]}"; do
  dpkg --status "$package" >/dev/null 2>&1 ||
    { echo "the stand-in for $kind needs: apt-get install $package" >&2; exit 1; }
done
# Of alternatives apt-cache also names those that are not installed: dpkg-query passes them over.
apt-cache depends --recurse --installed --no-recommends --no-suggests --no-enhances \
  --no-conflicts --no-breaks --no-replaces "${packages[@]}" | grep '^[a-z]' | sed 's/:any$//' |
  sort -u | grep -Ev "$never" | { xargs dpkg-query --listfiles 2>/dev/null || true; } |
  sed -nE 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#; s#^/##p' | sort -u |
  grep -Ev '^usr/share/(doc|man|info|locale|lintian|perl)/' |
  while IFS= read -r file; do
    if [ -L "/$file" ] || [ -f "/$file" ]; then printf '%s\n' "$file"; fi
  done | grep -vE '^(bin|sbin|lib|lib64|etc/(passwd|group))$' >"$files"

arguments=(--change "ENV PATH=$path" --change 'LABEL io.mlcicd.stand_in="test only, never push"')
for change in "${changes[@]}"; do arguments+=(--change "$change"); done
tar --create --numeric-owner --no-recursion --directory / --files-from "$files" \
  --directory "$stage" --recursion . | docker import "${arguments[@]}" - "$name"
