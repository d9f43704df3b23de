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

# A desktop is a QEMU with a file of this directory among its arguments: a path that begins with it, not one
# that only contains its name.
pattern=$(printf '%s/' "$lab" | sed 's/\./\\./g')
desktops=''
for directory in /proc/[0-9]*; do
    case $(readlink "$directory/exe" 2>/dev/null) in
        */qemu-system-*) ;;
        *) continue ;;
    esac
    if tr '\0' '\n' <"$directory/cmdline" 2>/dev/null | grep -q "\\(^\\|[=\",:]\\)$pattern"; then
        desktops="$desktops ${directory#/proc/}"
    fi
done
# All are asked at once, then each is waited for.
for pid in $desktops; do kill -TERM "$pid" 2>/dev/null || :; done
for pid in $desktops; do end "$pid" 10; done
if [ -n "$desktops" ]; then echo "lab: stopped the desktops, processes$desktops"; fi

rm -rf --one-file-system -- "$lab" || fail "$lab could not be removed completely: is something mounted in it?"
echo "lab: removed $lab"
