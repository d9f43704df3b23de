# Read by up.sh and down.sh: where the grid is, its servers, and the network between them.
# shellcheck shell=sh

say=grid
# shellcheck source=examples/lab/common.sh
. "${here:?}/../lab/common.sh"

# Everything of the grid is in here; outside are only the network namespaces and the bridge named below.
grid=$(directory COPPICE_GRID_DIR "${COPPICE_GRID_DIR:-/var/lib/coppice-grid}" 36) || exit 1

# This file says that the directory is a grid of these scripts, to be filled and removed by them.
# shellcheck disable=SC2034  # for those who read this file
marker=$grid/.coppice-grid

# Namespaces and interfaces are named after it: two grids on one machine need two names, and two networks.
prefix=${COPPICE_GRID_NAME:-cg}
case $prefix in
    *[!a-z0-9]* | '' | ?????????*) fail "COPPICE_GRID_NAME is '$prefix': one to eight small letters or digits are allowed" ;;
esac
# The first three numbers of the network between the servers. This machine is .1 in it, the servers are .11, .12, .13,
# and the grid's own address, which moves, is .100.
net=${COPPICE_GRID_NET:-10.77.43}
case $net in
    *[!0-9.]* | *.*.*.* | '') fail "COPPICE_GRID_NET is '$net', and must be three numbers such as 10.77.43" ;;
esac
# shellcheck disable=SC2034  # for those who read this file
servers=$(seq 1 "${COPPICE_GRID_SERVERS:-3}")

# host N: a server's name. space N: its namespace. address N: its address. home N: its directory.
host() { echo "host-$1"; }
space() { echo "$prefix-$1"; }
address() { echo "$net.1$1"; }
home() { echo "$grid/$1"; }

# daemon N: prints the process id of server N while it runs.
daemon() { runs "$(home "$1")/serve.pid"; }

# within N COMMAND...: runs it in the network of server N. Only the network is another: nsenter, not `ip netns exec`, which
# would also give it another /sys.
within() {
    within_space=$(space "$1")
    shift
    nsenter --net="/run/netns/$within_space" -- "$@"
}
