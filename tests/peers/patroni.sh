#!/usr/bin/env bash
# Installs the peer that mesh-bench measures beside mesh: etcd from Debian, Patroni from PyPI in an environment of its
# own, which the account `postgres` can read. Nothing is started.
set -euo pipefail

peers=${MESH_PEERS:-/var/tmp/mesh-peers}
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

missing=()
command -v etcd >/dev/null || missing+=(etcd-server)
[ -e /usr/share/doc/python3-venv ] || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    "${sudo[@]}" apt-get update -q
    # Only the program is wanted: a service of its own would hold ports and memory during measurements.
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
    "${sudo[@]}" chmod +x /usr/sbin/policy-rc.d
    trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
    "${sudo[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
if ! "$peers/patroni/bin/patroni" --version >/dev/null 2>&1; then
    mkdir -p "$peers"
    chmod 755 "$peers"
    /usr/bin/python3 -m venv "$peers/patroni"
    "$peers/patroni/bin/pip" install --quiet 'patroni[etcd3]==4.1.5' psycopg2-binary
fi
"$peers/patroni/bin/patroni" --version
etcd --version | head -1
