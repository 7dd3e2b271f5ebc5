# Ends everything that belongs to one lab, once its owner is gone or says so.
#   $1  the lab's directory   $2  "now": do not wait for the owner
# The owner holds the other end of standard input. Words on it, one a line: "keep" leaves everything as it is,
# "logs" keeps the log folder. End of input, by whatever cause, starts the work.
# A process belongs to the lab if it carries MESH_LAB=<directory> in its environment, or is one of PostgreSQL's
# programs or Redis (which overwrite their environment) at work below the directory, or runs in one of the lab's namespaces.
trap '' INT TERM HUP
lab=$1
what=all
if [ "${2:-wait}" != now ]; then
    while read -r word; do
        case $word in keep) exit 0 ;; logs) what=data ;; all) what=all ;; esac
    done
fi
case $lab in /*/mesh-*) ;; *) echo "refusing to clean $lab: not a lab" >&2; exit 2 ;; esac

members() {
    grep -lazxF "MESH_LAB=$lab" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
    for dir in $(find /proc/[0-9]* -maxdepth 1 -name cwd -lname "$lab/*" 2>/dev/null); do
        case $(cat "${dir%/cwd}/comm" 2>/dev/null) in postgres | pg_* | redis-server | redis-sentinel) echo "$dir" | cut -d/ -f3 ;; esac
    done
    if [ -f "$lab/namespaces" ]; then
        while read -r name; do ip netns pids "$name" 2>/dev/null; done <"$lab/namespaces"
    fi
}

# Whoever waits for a disk that hangs cannot be killed.
[ ! -f "$lab/disks" ] || while read -r at; do fsfreeze --unfreeze "$at" 2>/dev/null; done <"$lab/disks"
tries=0
while [ $tries -lt 100 ]; do
    pids=$(members | sort -u | grep -vx "$$" | while read -r pid; do
        # A zombie is dead already; its parent has yet to notice.
        case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in Z* | '') ;; *) echo "$pid" ;; esac
    done)
    [ -z "$pids" ] && break
    # shellcheck disable=SC2086
    kill -9 $pids 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done
if [ -f "$lab/namespaces" ]; then
    # The kernel takes a namespace apart later, and its link with it; the next lab may want the same name at once.
    while read -r name; do
        ip link del "${name%-*}v${name##*-}" 2>/dev/null
        ip netns del "$name" 2>/dev/null
    done <"$lab/namespaces"
    read -r bridge <"$lab/bridge" && ip link del "$bridge" 2>/dev/null
fi
# A killed server leaves its System V segment, which is named in the seventh line of its lock file.
find "$lab" -maxdepth 3 -name postmaster.pid 2>/dev/null | while read -r lock; do
    segment=$(sed -n '7s/.* //p' "$lock") && ipcrm -m "$segment" 2>/dev/null
done
[ ! -f "$lab/disks" ] || while read -r at; do umount "$at" 2>/dev/null || umount -l "$at"; done <"$lab/disks"
rm -rf "/dev/shm/${lab##*/}"
if [ "$what" = data ] && [ -d "$lab/log" ]; then
    find "$lab" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} +
else
    rm -rf "$lab"
fi
