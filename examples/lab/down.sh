#!/bin/sh
# Removes all that up.sh made: the server, its desktops, their disks, the directory. Packages stay installed.
#
#     sh examples/lab/down.sh
#
# COPPICE_LAB_DIR as for up.sh. Nothing outside that directory is touched, and no process that is not of it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/lab/lab.sh
. "$here/lab.sh"

if [ ! -e "$lab" ]; then
    echo "lab: there is no $lab, nothing to remove"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail 'this must run as root, as up.sh did (sudo sh examples/lab/down.sh)'
if [ ! -e "$marker" ]; then
    if [ -d "$lab" ] && [ -z "$(ls -A "$lab")" ]; then
        rmdir "$lab"
        echo "lab: removed $lab, which was empty"
        exit 0
    fi
    fail "$lab was not made by up.sh (${marker##*/} is not in it): nothing was removed"
fi
exec 9>"$lab/lock"
flock -n 9 || fail "another up.sh or down.sh is at work in $lab: wait for it"

# The server first, so that it does not heal what goes away below.
if pid=$(daemon); then
    end "$pid" 30
    echo "lab: stopped the server, process $pid"
fi

desktops=$(desktops "$lab" | tr '\n' ' ')
# All are asked at once, then each is waited for.
for pid in $desktops; do kill -TERM "$pid" 2>/dev/null || :; done
for pid in $desktops; do end "$pid" 10; done
if [ -n "$desktops" ]; then echo "lab: stopped the desktops, processes $desktops"; fi

# What ends desktops whose server was given up: it outlives the server.
if pid=$(runs "$lab/data/watchdog.pid"); then
    end "$pid" 10
    echo "lab: stopped the watchdog, process $pid"
fi

rm -rf --one-file-system -- "$lab" || fail "$lab could not be removed completely: is something mounted in it?"
echo "lab: removed $lab"
