# Read by up.sh and down.sh: where the lab is, and whether its server is running.
# shellcheck shell=sh

export LC_ALL=C

fail() {
    printf 'lab: %s\n' "$*" >&2
    exit 1
}

# Everything of the lab is in here, and nothing of it elsewhere.
lab=${COPPICE_LAB_DIR:-/var/lib/coppice-lab}
case $lab in
    /?*) ;;
    *) fail "COPPICE_LAB_DIR is $lab, and must be an absolute path" ;;
esac
case $lab in
    *[!A-Za-z0-9/._-]* | */../* | */..) fail "COPPICE_LAB_DIR is $lab: only letters, digits and / . _ - are allowed, without .." ;;
esac
# As the programs spell it: desktops are known by the paths that they hold open.
lab=$(realpath -m -- "$lab")
case $lab in
    *[!A-Za-z0-9/._-]*) fail "COPPICE_LAB_DIR leads to $lab: only letters, digits and / . _ - are allowed" ;;
esac
# A unix socket's path holds 107 bytes, and each desktop's begins with this directory.
[ ${#lab} -le 40 ] || fail "COPPICE_LAB_DIR is $lab: choose one of at most 40 characters, as desktops keep unix sockets in it"

# This file says that the directory is a lab, to be filled and removed by these scripts.
# shellcheck disable=SC2034  # for those who read this file
marker=$lab/.coppice-lab

# now: the time in milliseconds.
now() { date +%s%3N; }

# process PID: prints "PID START BOOT", which no other process ever has, or fails when there is none.
process() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in parentheses, may hold anything; what follows it are fields 3 and on, the start is field 22.
    # shellcheck disable=SC2086  # fields
    set -- "$1" ${stat##*) }
    [ "$2" != Z ] || return 1 # it has ended, and its parent has not looked yet
    echo "$1 ${21} $(cat /proc/sys/kernel/random/boot_id)"
}

# daemon: prints the process id of the lab's own server while it runs. A number that the system has since given
# to another process is not ours.
daemon() {
    recorded=$(cat "$lab/serve.pid" 2>/dev/null) || return 1
    pid=${recorded%% *}
    [ -n "$pid" ] && [ "$(process "$pid")" = "$recorded" ] && echo "$pid"
}

# ended WHO SECONDS: waits until that process is no more; fails when the time is over.
ended() {
    deadline=$(($(now) + $2 * 1000))
    while [ "$(process "${1%% *}")" = "$1" ]; do
        [ "$(now)" -lt $deadline ] || return 1
        sleep 0.1
    done
}

# end PID SECONDS: asks the process to end, and makes it once the time is over.
end() {
    who=$(process "$1") || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    if ! ended "$who" "$2"; then
        kill -KILL "$1" 2>/dev/null || return 0
        ended "$who" 5 || fail "process $1 does not end, even when killed: is its disk hanging?"
    fi
}
