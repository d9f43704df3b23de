#!/bin/sh
# One command from a fresh Debian 12 to a grid of three servers with real desktops, all on this one machine: each server
# has a network namespace, a hypervisor, disks and a daemon of its own, as three machines would.
#
#     sh examples/grid/up.sh
#
# Run it again at any time: what is there stays, what is missing is made, what you edited is applied.
#
#   COPPICE_GRID_DIR      where everything is kept (/var/lib/coppice-grid)
#   COPPICE_GRID_NAME     what its namespaces and its bridge are named after (cg)
#   COPPICE_GRID_NET      the first three numbers of the network between the servers (10.77.43)
#   COPPICE_GRID_SERVERS  how many servers (3; up to 9)
#   COPPICE_GRID_BINARY   a coppice to use instead of building one
#   COPPICE_GRID_IMAGE    a disk image to use instead of building one
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=examples/grid/grid.sh
. "$here/grid.sh"

begun=$(now)
# shellcheck disable=SC2034  # for step
step_begun=$begun

# --- packages, as root ---------------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || fail 'this must run as root: it installs packages, makes network namespaces and starts virtual machines (sudo sh examples/grid/up.sh)'
words=$(sh "$here/../lab/packages.sh" iproute2 iputils-arping util-linux) || exit 1 # it has said why
step packages "$(printf '%s\n' "$words" | sed -n '$s/^packages: //p')"
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin

# --- the directory, the binary, the golden image -------------------------------------------------------------
claim "$grid" "$marker" examples/grid COPPICE_GRID_DIR
take_binary "$grid" "${COPPICE_GRID_BINARY:-}" COPPICE_GRID_BINARY "$root"
mkdir -p "$grid/bin"
if ! cmp -s "$binary" "$grid/bin/coppice"; then
    cp "$binary" "$grid/bin/coppice.new"
    mv "$grid/bin/coppice.new" "$grid/bin/coppice"
    for n in $servers; do
        if pid=$(daemon "$n"); then # of the former binary; its desktops run on, and the new one takes them over
            end "$pid" 30
            words="$words; stopped $(host "$n") of the former one"
        fi
    done
fi
step binary "$words"
if [ -e "$grid/imported" ]; then
    step image 'tiny, version 1, is in the grid already'
elif [ -n "${COPPICE_GRID_IMAGE:-}" ]; then
    image=$COPPICE_GRID_IMAGE
    [ -r "$image" ] || fail "COPPICE_GRID_IMAGE is $image, which cannot be read"
    step image "took $image"
else
    image=$grid/image/tiny.qcow2
    words=$(sh "$here/../lab/image/build.sh" --out "$image" --cache "$grid/image/packages" 9>&-) || exit 1
    step image "${words#image: }"
fi

# --- the network: a bridge on this machine, and behind it a namespace for each server ------------------------
bridge=$prefix-br
if ! ip link show "$bridge" >/dev/null 2>&1; then
    if [ -n "$(ip route show "$net.0/24")" ]; then
        fail "this machine has a network $net.0/24 already: set COPPICE_GRID_NET to three other numbers"
    fi
    ip link add "$bridge" type bridge || fail 'this machine makes no bridges: is this a container without the right to (CAP_NET_ADMIN)?'
    ip address add "$net.1/24" dev "$bridge"
    ip link set "$bridge" up
fi
for n in $servers; do
    space=$(space "$n")
    [ -e "/run/netns/$space" ] || ip netns add "$space" || fail "the network namespace $space cannot be made"
    if ! within "$n" ip link show eth0 >/dev/null 2>&1; then
        ip link add "$space" type veth peer name eth0 netns "$space"
        ip link set "$space" master "$bridge" up
        within "$n" ip address add "$(address "$n")/24" dev eth0
        within "$n" ip link set eth0 up
        within "$n" ip link set lo up
    fi
done
step network "$bridge, $net.0/24, with a namespace for each server"

# --- the servers ---------------------------------------------------------------------------------------------
cat >"$grid/env" <<ENV
# Read this file (. $grid/env) and coppice finds the grid, at the address that moves to whichever server leads.
export COPPICE_GRID_DIR=$grid
export COPPICE_GRID_NAME=$prefix
export COPPICE_GRID_NET=$net
export COPPICE_SERVER=https://$net.100:7443
export COPPICE_TOKEN_FILE=$grid/1/data/admin.token
export COPPICE_CA_FILE=$grid/1/data/ca.pem
case ":\$PATH:" in *":$grid/bin:"*) ;; *) export PATH="$grid/bin:\$PATH" ;; esac
ENV
# shellcheck disable=SC1091  # written above
. "$grid/env"
# at N COMMAND...: asks server N, not whoever has the grid's address.
at() {
    at_address=$(address "$1")
    shift
    COPPICE_SERVER=https://$at_address:7443 "$@"
}
# serve N: starts the daemon of server N, unless it runs, and waits until it answers.
serve() {
    serve_home=$(home "$1")
    if ! daemon "$1" >/dev/null; then
        # In a session of its own: it outlives this script and its terminal. Not by `within`, whose process would be a
        # shell's.
        nsenter --net="/run/netns/$(space "$1")" -- setsid "$grid/bin/coppice" serve --config "$serve_home/data/coppice.toml" \
            </dev/null >>"$serve_home/serve.log" 2>&1 9>&- &
        process $! >"$serve_home/serve.pid" || stopped "$serve_home/serve.log" "coppice serve of $(host "$1") ended at once"
    fi
    answers=$(($(now) + 60000))
    until at "$1" coppice status >/dev/null 2>"$serve_home/status.log" 9>&-; do
        daemon "$1" >/dev/null || stopped "$serve_home/serve.log" "coppice serve of $(host "$1") has ended"
        if [ "$(now)" -ge $answers ]; then
            cat "$serve_home/status.log" >&2
            stopped "$serve_home/serve.log" "$(host "$1") runs, and coppice status fails for a minute; its words are above"
        fi
        sleep 0.2
    done
}
# apply ARGUMENTS...: applies this directory, with them.
apply() {
    at 1 coppice apply "$here" --var "address=$net.100" --yes --wait "$@" </dev/null 9>&- || {
        code=$?
        echo "--- the servers' logs are $grid/*/serve.log" >&2
        fail "coppice apply ended with code $code; it has said why"
    }
}
for n in $servers; do
    home=$(home "$n")
    mkdir -p "$home"
    if [ -e "$home/begun" ] && [ "$n" = 1 ]; then rm -rf "$home/data"; fi # an init that was cut off: nothing ran on it yet
    if [ ! -e "$home/data/coppice.toml" ] || [ -e "$home/begun" ]; then
        : >"$home/begun"
        set -- --data "$home/data" --name "$(host "$n")" --listen 0.0.0.0:7443 --hypervisor "qemu:///embed?root=$home/hv"
        if [ "$n" = 1 ]; then
            within "$n" "$grid/bin/coppice" init "$@" </dev/null >"$home/init.log" 2>&1 9>&- ||
                stopped "$home/init.log" 'coppice init failed'
        else
            if [ ! -s "$home/token" ]; then
                (umask 077 && at 1 coppice token create --role server >"$home/token") </dev/null 9>&- ||
                    fail "no token for $(host "$n"); coppice has said why"
            fi
            # On a machine of its own that is all: an address of the grid, and the token.
            within "$n" "$grid/bin/coppice" join "$(address 1):7443" "$(cat "$home/token")" "$@" \
                </dev/null >"$home/join.log" 2>&1 9>&- || stopped "$home/join.log" "coppice join failed on $(host "$n")"
        fi
        rm -f "$home/begun" "$home/token"
    fi
    serve "$n"
done
# Each says what it can carry, and is seen whole, before anything is placed.
patience=$(($(now) + 60000))
until [ "$(at 1 coppice server list --json 2>"$grid/status.log" 9>&- | grep -c '"current": true')" = "$(echo "$servers" | wc -l)" ]; do
    [ "$(now)" -lt $patience ] || {
        at 1 coppice server list >&2 || :
        fail 'after a minute not every server is seen whole; the list is above, their logs are */serve.log in '"$grid"
    }
    sleep 0.2
done
step servers "$(for n in $servers; do printf '%s ' "$(host "$n")"; done)run"

if [ ! -e "$grid/imported" ]; then
    at 1 coppice image import tiny "$image" --version 1 </dev/null 9>&- || fail 'the image could not be imported; coppice has said why'
    sha256sum "$image" >"$grid/imported"
    step import 'tiny, version 1, on host-1; the others copy it from there'
fi
if [ ! -e "$grid/grown" ]; then
    # Desktops are grown where the image is: with all copies there first, each server gets its share at once. They can
    # also be grown at any time, and levelled afterwards by `coppice server rebalance`.
    apply --var desktops=0
    patience=$(($(now) + 120000))
    until [ "$(at 1 coppice image status --json 2>"$grid/status.log" 9>&- | grep -c '"verified"')" = "$(echo "$servers" | wc -l)" ]; do
        [ "$(now)" -lt $patience ] || {
            at 1 coppice image status >&2 || :
            fail 'after two minutes not every server has a whole copy of the image; they are above'
        }
        sleep 0.2
    done
    step copies "tiny is whole on each server"
    : >"$grid/grown"
fi

# --- the desktops --------------------------------------------------------------------------------------------
apply
step apply "$here"
patience=$(($(now) + 300000))
while
    desired=$(count class desired "$grid/status.log")
    available=$(count class available "$grid/status.log")
    [ -z "$desired" ] || [ -z "$available" ] || [ "$available" -lt "$desired" ]
do
    for n in $servers; do
        daemon "$n" >/dev/null || stopped "$(home "$n")/serve.log" "coppice serve of $(host "$n") has ended"
    done
    if [ "$(now)" -ge $patience ]; then
        cat "$grid/status.log" >&2
        at 1 coppice status >&2 || :
        fail "after five minutes ${available:-none} of ${desired:-the} desktops are available, asked at $COPPICE_SERVER; the status is above"
    fi
    sleep 0.5
done
step desktops "$available of $desired are available"
# Whoever joins learns for a while before it votes. Until enough vote, the grid does not outlive whoever leads.
case $(echo "$servers" | wc -l) in
    1) votes=1 ;;
    2) votes=2 ;;
    3 | 4) votes=3 ;;
    *) votes=5 ;;
esac
patience=$(($(now) + 60000))
until [ "$(at 1 coppice server list --json 2>"$grid/status.log" 9>&- | grep -c '"part": "\(leader\|voter\)"')" = $votes ]; do
    [ "$(now)" -lt $patience ] || {
        at 1 coppice server list >&2 || :
        fail "after a minute not $votes servers vote; the list is above, their logs are */serve.log in $grid"
    }
    sleep 0.2
done
step votes "$votes servers vote"
# shellcheck disable=SC2034  # for step
step_begun=$begun
step all "$grid"

echo
coppice status
cat <<NEXT

What to try next, in this directory: cd $root
  . $grid/env
      so that coppice finds the grid
  coppice server list; coppice desktop list
      who leads and who votes; which desktop is where
  kill -9 \$(cut -d' ' -f1 $grid/1/serve.pid)
      the daemon of host-1 is gone: within seconds another leads, and the address $net.100 is there
  sh examples/grid/up.sh
      brings back what is missing
  sh examples/grid/down.sh
      all of it away again
The story is told in examples/grid/README.md.
NEXT
