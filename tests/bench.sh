#!/bin/sh
# How fast Coppice is beside what people use now: one table, every figure measured side by side in this run.
#
#     sh tests/bench.sh [--row N] [--json] [--quick] [--no-install]
#
#   --row N       only row N: 1 durable linked clones, 4 configurations parsed and validated,
#                 5 a commit of three servers, 6 commits of 64 clients, 7 an image to many servers,
#                 8 a new version of one, 10 placement, 11 servers killed, 13 many servers led
#   --json        a list of {row,metric,ours,peer,unit,ratio,limit,target}; a larger ratio is better for Coppice
#   --quick       so little work that the figures mean nothing: only to see that it works
#   --no-install  what it compares with is there already; a peer that is not is left out
#
#   COPPICE_BENCH_DIR     the disk that is measured (/var/tmp)
#   COPPICE_BENCH_BINARY  a bench to use instead of building one
#
# CARGO_TARGET_DIR is honoured. Measure on an idle machine; a busy one is warned of and never refused.
set -eu
cd "$(dirname "$0")/.."

usage() {
    printf 'bench: %s\nusage: sh tests/bench.sh [--row N] [--json] [--quick] [--no-install]\n' "$*" >&2
    exit 64
}
row='' install=yes flags=''
while [ $# -gt 0 ]; do
    case $1 in
        --row)
            [ $# -ge 2 ] || usage '--row wants a number'
            row=$2
            shift
            ;;
        --json | --quick) flags="$flags $1" ;;
        --no-install) install='' ;;
        *) usage "unknown argument $1" ;;
    esac
    shift
done
rows=$(sed -n 's/^    number: \([0-9]*\),$/\1/p' tests/bench/*.rs | sort -n | tr '\n' ' ')
case " $rows" in
    *" $row "*) ;;
    *) [ -z "$row" ] || usage "there is no row $row; there are $rows" ;;
esac
set -- ${row:+--row "$row"}
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

# Its words, and cargo's, belong on standard error: the result alone is on standard output.
packages() { [ -z "$install" ] || sh examples/lab/packages.sh "$@" >&2; }

packages
binary=${COPPICE_BENCH_BINARY:-}
if [ -z "$binary" ]; then
    messages=$(cargo build --release --locked -p coppice-tests --bin bench --message-format json-render-diagnostics </dev/null)
    binary=$(printf '%s\n' "$messages" | sed -n 's/.*"executable":"\([^"]*\/bench\)".*/\1/p' | tail -n 1)
fi
[ -x "$binary" ] || usage "there is no program '$binary' to measure with"
peers=$("$binary" --packages "$@")
# shellcheck disable=SC2086  # lists of words
packages $peers
# shellcheck disable=SC2086
exec "$binary" "$@" $flags
