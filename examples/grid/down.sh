#!/bin/sh
# Removes all that up.sh made: the servers, their desktops, their network, the directory. Packages stay installed.
#
#     sh examples/grid/down.sh
#
# COPPICE_GRID_DIR and COPPICE_GRID_NAME as for up.sh. Nothing else is touched, and no process that is not of it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/grid/grid.sh
. "$here/grid.sh"

if [ ! -e "$grid" ]; then
    echo "grid: there is no $grid, nothing to remove"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail 'this must run as root, as up.sh did (sudo sh examples/grid/down.sh)'
if [ ! -e "$marker" ]; then
    if [ -d "$grid" ] && [ -z "$(ls -A "$grid")" ]; then
        rmdir "$grid"
        echo "grid: removed $grid, which was empty"
        exit 0
    fi
    fail "$grid was not made by up.sh (${marker##*/} is not in it): nothing was removed"
fi
exec 9>"$grid/lock"
flock -n 9 || fail "another up.sh or down.sh is at work in $grid: wait for it"
PATH=$PATH:/usr/sbin:/sbin

# The servers first, all at once, so that none heals what goes away below.
pids=''
for home in "$grid"/[0-9]*; do
    if pid=$(runs "$home/serve.pid"); then pids="$pids $pid"; fi
done
for pid in $pids; do kill -TERM "$pid" 2>/dev/null || :; done
for pid in $pids; do
    kill -CONT "$pid" 2>/dev/null || : # one that stands still cannot end
    end "$pid" 30
done
if [ -n "$pids" ]; then echo "grid: stopped the servers, processes$pids"; fi

desktops=$(desktops "$grid" | tr '\n' ' ')
for pid in $desktops; do kill -TERM "$pid" 2>/dev/null || :; done
for pid in $desktops; do end "$pid" 10; done
if [ -n "$desktops" ]; then echo "grid: stopped the desktops, processes $desktops"; fi

# What ends desktops whose server was given up: it outlives the server.
for home in "$grid"/[0-9]*; do
    if pid=$(runs "$home/data/watchdog.pid"); then
        end "$pid" 10
        echo "grid: stopped the watchdog of ${home##*/}, process $pid"
    fi
done

for home in "$grid"/[0-9]*; do
    space=$(space "${home##*/}")
    if [ -e "/run/netns/$space" ]; then
        ip netns del "$space" || fail "the network namespace $space cannot be removed"
    fi
done
if ip link show "$prefix-br" >/dev/null 2>&1; then ip link del "$prefix-br"; fi

rm -rf --one-file-system -- "$grid" || fail "$grid could not be removed completely: is something mounted in it?"
echo "grid: removed $grid"
