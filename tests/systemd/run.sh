#!/usr/bin/env bash
# Three hosts with a real systemd each, and the package on them: installed, formed into a mesh, a PostgreSQL pair
# protected; then restarts, kills, a reboot, an upgrade and a removal. As root; needs debootstrap, systemd-container,
# iproute2 (installed when missing). About five minutes after the first run, which makes the Debian root.
#
#   tests/systemd/run.sh [PACKAGE.deb]     builds the package when none is named
#   KEEP=1 tests/systemd/run.sh            leaves the hosts up after a failure, to look at
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "run this as root: it boots hosts" >&2; exit 1; }

need=()
for pair in debootstrap:debootstrap systemd-nspawn:systemd-container ip:iproute2; do
    command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
if [ ${#need[@]} -gt 0 ]; then apt-get update -q; apt-get install -y -q --no-install-recommends "${need[@]}"; fi

package=${1:-}
if [ -z "$package" ]; then
    deploy/package.sh target/debian
    package=$(ls -t target/debian/mesh_*.deb | head -1)
fi

work=${WORK:-/var/tmp/mesh-systemd}
base=$work/base
net=10.250.77
bridge=meshsd0
hosts=(east dr witness)
declare -A address=([east]=$net.1 [dr]=$net.2 [witness]=$net.3)
mkdir -p "$work"

say() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
number() { cat "$work/$1.pid"; }
# Runs a command on a host.
on() {
    local host=$1
    shift
    nsenter --target "$(number "$host")" --mount --uts --ipc --net --pid --root -- \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 sh -c 'cd / && exec "$@"' sh "$@"
}
mesh() { local host=$1; shift; on "$host" mesh "$@"; }
# Waits for a command to succeed: until "what" seconds command...
until_ok() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            "$@" || true
            fail "$what: not in time"
        fi
        sleep 0.3
    done
}

end_hosts() {
    for host in "${hosts[@]}"; do
        if [ -f "$work/$host.outer" ]; then
            kill -KILL "$(number "$host" 2>/dev/null)" "$(cat "$work/$host.outer")" 2>/dev/null || true
            rm -f "$work/$host.outer" "$work/$host.pid"
        fi
    done
    ip link del "$bridge" 2>/dev/null || true
}
ended() {
    local code=$?
    if [ "$code" != 0 ]; then
        for host in "${hosts[@]}"; do
            [ -f "$work/$host.pid" ] || continue
            echo "--- $host" >&2
            on "$host" journalctl -q --no-pager -n 25 -u 'mesh*' >&2 || true
        done
        mesh witness status >&2 || true
        [ -z "${KEEP:-}" ] || { echo "left up; end it with: KEEP= $0 after looking" >&2; exit "$code"; }
    fi
    end_hosts
    exit "$code"
}
end_hosts
trap ended EXIT

boot() {
    local host=$1 unit=()
    systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$work/$host" --machine="mesh-$host" \
        --network-bridge="$bridge" --capability=CAP_IPC_LOCK,CAP_SYS_NICE >"$work/$host.console" 2>&1 </dev/null &
    echo $! >"$work/$host.outer"
    local end=$((SECONDS + 30)) inner=
    until inner=$(pgrep -P "$(cat "$work/$host.outer")" | head -1) && [ -n "$inner" ] &&
        [ "$(cat "/proc/$inner/comm" 2>/dev/null)" = systemd ]; do
        [ "$SECONDS" -lt "$end" ] || { cat "$work/$host.console" >&2; fail "$host does not boot"; }
        sleep 0.2
    done
    echo "$inner" >"$work/$host.pid"
    until_ok "$host is up" 60 on "$host" sh -c 'systemctl is-system-running | grep -qE "running|degraded"'
}

if [ ! -e "$base/etc/debian_version" ]; then
    say "a Debian root"
    rm -rf "$base.new"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,dbus,adduser,iproute2,procps,man-db,postgresql,util-linux bookworm "$base.new" >/dev/null
    chroot "$base.new" sh -c 'for c in $(pg_lsclusters -h | tr -s " " | cut -d" " -f1,2 | tr " " /); do
        pg_dropcluster --stop "${c%/*}" "${c#*/}"; done; systemctl disable postgresql.service >/dev/null 2>&1 || true'
    mv "$base.new" "$base"
fi
bin=$(ls -d "$base"/usr/lib/postgresql/*/bin | tail -1)
bin=${bin#"$base"}

say "three hosts boot"
ip link add "$bridge" type bridge
ip link set "$bridge" up
for host in "${hosts[@]}"; do
    rm -rf "${work:?}/$host"
    cp -a --reflink=auto "$base" "$work/$host"
    rm -f "$work/$host/etc/machine-id"
    touch "$work/$host/etc/machine-id"
    echo "mesh-$host" >"$work/$host/etc/hostname"
    mkdir -p "$work/$host/etc/systemd/network"
    printf '[Match]\nName=host0\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\n' "${address[$host]}" \
        >"$work/$host/etc/systemd/network/10-mesh.network"
    ln -sf /lib/systemd/system/systemd-networkd.service \
        "$work/$host/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    boot "$host"
    until_ok "$host has its address" 20 on "$host" sh -c "ip -4 addr show host0 | grep -q ${address[$host]}"
done

say "the package is installed"
for host in "${hosts[@]}"; do
    cp "$package" "$work/$host/root/mesh.deb"
    on "$host" dpkg -i /root/mesh.deb >/dev/null
done
mesh east --version
on east man -w mesh-failover >/dev/null || fail "there is no manual page"
on east systemctl cat mesh-agent.service mesh-guard@.service >/dev/null
[ "$(on east stat -c %U:%a /var/lib/mesh)" = mesh:750 ] || fail "/var/lib/mesh is not the agent's own"

say "keys and files"
mesh east ca init --dir /root/ca --mesh shop >/dev/null
secret=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
voters=$(for n in 1 2 3; do
    h=${hosts[$((n - 1))]}
    printf '[[mesh.voter]]\nid = %d\nagent = "%s"\nsite = "%s"\naddress = "%s:7400"\n' "$n" "$h" "$h" "${address[$h]}"
done)
for host in "${hosts[@]}"; do
    ip=${address[$host]}
    mesh east ca issue --dir /root/ca --agent "$host" --address "$ip" --out "/root/out-$host" >/dev/null
    [ "$host" = witness ] || mesh east ca issue --dir /root/ca --guard "pg-$host" --address "$ip" --out "/root/out-$host" >/dev/null
    cp "$work"/east/root/out-"$host"/* "$work/$host/etc/mesh/"
    printf '*:*:*:mesh_probe:%s\n' "$secret" >"$work/$host/etc/mesh/probe.pgpass"
    {
        printf '[mesh]\nid = "shop"\n%s\n' "$voters"
        printf '[agent]\nname = "%s"\nsite = "%s"\ndata_dir = "/var/lib/mesh/%s"\nlisten = "%s:7400"\n' "$host" "$host" "$host" "$ip"
        printf 'socket = "/run/mesh/mesh.sock"\n[tls]\nca = "/etc/mesh/ca.crt"\n'
        printf 'cert = "/etc/mesh/agent-%s.crt"\nkey = "/etc/mesh/agent-%s.key"\n' "$host" "$host"
        printf '[probe]\nuser = "mesh_probe"\npassword_file = "/etc/mesh/probe.pgpass"\n'
        if [ "$host" != witness ]; then
            printf '*:*:*:mesh_repl:%s\n' "$secret" >"$work/$host/etc/mesh/repl.pgpass"
            printf '[[instance]]\nname = "pg-%s"\ngroup = "orders"\ndata_dir = "/var/lib/postgresql/data"\n' "$host"
            printf 'bin_dir = "%s"\nport = 5432\nsocket_dir = "/var/run/postgresql"\n' "$bin"
            printf 'replication_user = "mesh_repl"\nreplication_passfile = "/etc/mesh/repl.pgpass"\n'
            printf 'guard_listen = "%s:7401"\nstate_dir = "/run/mesh-guard/pg-%s"\n' "$ip" "$host"
            printf 'log_file = "/var/log/mesh-guard/pg-%s.log"\n' "$host"
            printf 'cert = "/etc/mesh/guard-pg-%s.crt"\nkey = "/etc/mesh/guard-pg-%s.key"\n' "$host" "$host"
        fi
    } >"$work/$host/etc/mesh/mesh.toml"
    on "$host" sh -c 'cd /etc/mesh && chmod 0644 mesh.toml *.crt && chown mesh: agent-* probe.pgpass && chmod 0600 *.key *.pgpass &&
        if ls guard-* >/dev/null 2>&1; then chown postgres: guard-* repl.pgpass; fi'
    on "$host" runuser -u mesh -- mesh agent init >/dev/null
    on "$host" systemctl enable --now --quiet mesh-agent.service
done
for host in "${hosts[@]}"; do
    [ "$(on "$host" systemctl show -P ActiveState mesh-agent)" = active ] || fail "the agent of $host is not ready"
done
until_ok "the mesh forms" 20 mesh east form

say "a PostgreSQL pair, as it ran before mesh"
sql() { local host=$1; shift; on "$host" runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d postgres -c "$*"; }
start_postgres() {
    on "$1" runuser -u postgres -- "$bin/pg_ctl" -w -s -D /var/lib/postgresql/data -l /var/lib/postgresql/first.log \
        -o "-c listen_addresses=${address[$1]}" start
}
on east runuser -u postgres -- "$bin/initdb" -k -A peer -D /var/lib/postgresql/data >/dev/null
printf 'wal_log_hints = on\nrestart_after_crash = off\nwal_keep_size = 128MB\nshared_buffers = 32MB\n' \
    >>"$work/east/var/lib/postgresql/data/postgresql.conf"
printf 'host all mesh_probe %s.0/24 scram-sha-256\nhost postgres,replication mesh_repl %s.0/24 scram-sha-256\n' "$net" "$net" \
    >>"$work/east/var/lib/postgresql/data/pg_hba.conf"
start_postgres east
printf "CREATE ROLE mesh_probe LOGIN PASSWORD '%s'; CREATE ROLE mesh_repl LOGIN REPLICATION PASSWORD '%s';
    GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
        pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO mesh_repl;
    CREATE TABLE rows (id bigserial PRIMARY KEY);" "$secret" "$secret" |
    on east runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d postgres
on dr runuser -u postgres -- "$bin/pg_basebackup" -X stream -c fast -R -D /var/lib/postgresql/data \
    -d "host=${address[east]} user=mesh_repl passfile=/etc/mesh/repl.pgpass application_name=pg-dr"
start_postgres dr
first=$(on east head -1 /var/lib/postgresql/data/postmaster.pid)

say "protected by mesh, without a restart of the primary"
{
    printf 'group = "orders"\nhold_down_seconds = 0\n'
    for host in east dr; do
        printf '[[instance]]\nname = "pg-%s"\nsite = "%s"\nagent = "%s"\naddress = "%s:5432"\nguard = "%s:7401"\n' \
            "$host" "$host" "$host" "${address[$host]}" "${address[$host]}"
    done
} >"$work/east/root/orders.toml"
for host in east dr; do on "$host" systemctl enable --now --quiet "mesh-guard@pg-$host"; done
mesh east apply -f /root/orders.toml >/dev/null
until_ok "the primary is adopted" 20 mesh east adopt pg-east --group orders
serves() { # HOST: its instance is the healthy primary, the other one follows
    mesh witness --json status | python3 -c '
import json, sys
group = json.load(sys.stdin)["groups"][0]
ok = group["primary"] == "pg-" + sys.argv[1] and group["verdict"]["verdict"] == "healthy"
run = group.get("run")
ok = ok and (run is None or run["phase"] in ("done", "aborted"))
for one in group["instances"]:
    guard = one["guard"][0] if one.get("guard") else {}
    good = guard.get("lease") if one["name"] == group["primary"] else (guard.get("receiving") or {}).get("streaming")
    ok = ok and bool(good)
sys.exit(0 if ok else 1)' "$1"
}
until_ok "pg-east serves" 30 serves east
[ "$(on east head -1 /var/lib/postgresql/data/postmaster.pid)" = "$first" ] || fail "the primary was restarted"
mesh east status

say "agents restart one after the other under writes: nobody notices"
(while sql east "INSERT INTO rows DEFAULT VALUES" >/dev/null; do sleep 0.02; done) &
writer=$!
for host in "${hosts[@]}"; do
    on "$host" systemctl restart mesh-agent
    sleep 3
done
kill -0 "$writer" 2>/dev/null || fail "a write was refused while agents restarted"
[ "$(on east head -1 /var/lib/postgresql/data/postmaster.pid)" = "$first" ] || fail "an agent's restart took the primary down"
until_ok "pg-east serves" 30 serves east

say "a hung agent is replaced by its watchdog"
hung=$(on dr systemctl show -P MainPID mesh-agent)
on dr kill -STOP "$hung"
until_ok "another agent runs" 30 on dr sh -c "p=\$(systemctl show -P MainPID mesh-agent); [ \$p != $hung ] && [ \$p != 0 ] && systemctl is-active -q mesh-agent"
until_ok "pg-east serves" 30 serves east

say "an upgrade restarts the agent and leaves the guard alone"
guard=$(on east systemctl show -P MainPID mesh-guard@pg-east)
said=$(on east dpkg -i /root/mesh.deb 2>&1)
grep -q "mesh-guard@pg-east" <<<"$said" || fail "the upgrade does not name the guard that still runs the old version: $said"
[ "$(on east systemctl show -P MainPID mesh-guard@pg-east)" = "$guard" ] || fail "the upgrade restarted the guard"
kill -0 "$writer" 2>/dev/null || fail "a write was refused during the upgrade"
if said=$(on east dpkg -r mesh 2>&1); then fail "the package was removed while its guard runs a database"; fi
grep -q "mesh failover --site" <<<"$said" || fail "the refusal does not say what to do: $said"
until_ok "pg-east serves" 30 serves east

say "a guard that is killed takes its database along, and dr takes over"
on east kill -KILL "$(on east systemctl show -P MainPID mesh-guard@pg-east)"
wait "$writer" 2>/dev/null || true
until_ok "pg-dr serves and pg-east follows" 60 serves dr

say "a host that reboots comes back as a standby"
on east systemctl poweroff
wait "$(cat "$work/east.outer")" 2>/dev/null || true
boot east
until_ok "pg-dr serves and pg-east follows" 60 serves dr

say "back by hand, and the record verifies"
mesh witness failover --site east --yes --reason "systemd test" | tail -4
until_ok "pg-east serves" 60 serves east
mesh witness audit verify

say "hardening"
on east systemd-analyze security --no-pager mesh-agent.service | tail -1
on east systemd-analyze security --no-pager mesh-guard@pg-east.service | tail -1

say "a purge leaves only data"
on witness dpkg -P mesh
for gone in /usr/bin/mesh /etc/mesh /lib/systemd/system/mesh-agent.service; do
    [ ! -e "$work/witness$gone" ] || fail "$gone is left"
done
[ -d "$work/witness/var/lib/mesh/witness" ] || fail "the record of the mesh was removed"
say "all well"
