#!/bin/sh
# Installs what the tests need, then runs every check and every test; stops at the first stage that fails.
#
#     sh tests/run.sh [--full] [--seeds N] [--no-install]
#
#   --full        the long form: 20,000 seeds
#   --seeds N     so many seeded storms and simulated grids (1,000; 300 on one processor)
#   --no-install  what the tests need is there already; the way on anything but Debian 12
#
# CARGO_TARGET_DIR is honoured. The storms and the simulated grids read COPPICE_SEEDS. Tests that cannot be made here say so in COPPICE_SKIPS.
set -eu
cd "$(dirname "$0")/.."

usage() {
    printf 'tests: %s\nusage: sh tests/run.sh [--full] [--seeds N] [--no-install]\n' "$*" >&2
    exit 64
}
full='' seeds='' install=yes
while [ $# -gt 0 ]; do
    case $1 in
        --full) full=1 ;;
        --seeds)
            [ $# -ge 2 ] || usage '--seeds wants a number'
            seeds=$2
            shift
            ;;
        --no-install) install='' ;;
        *) usage "unknown argument $1" ;;
    esac
    shift
done
case ${seeds:-1} in
    *[!0-9]* | 0*) usage "--seeds wants a number from 1 on, not $seeds" ;;
esac
: "${seeds:=$(if [ -n "$full" ]; then echo 20000; elif [ "$(nproc)" -gt 1 ]; then echo 1000; else echo 300; fi)}"
export COPPICE_SEEDS="$seeds"
# Grids of many servers on real raft cost about four times what other storms do: they get three seeds of ten.
grids=$((seeds * 3 / 10 > 2 ? seeds * 3 / 10 : 2))
export RUST_BACKTRACE="${RUST_BACKTRACE:-1}"
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

# Each test that is skipped adds a line to it: its name, and why.
COPPICE_SKIPS=$(mktemp)
export COPPICE_SKIPS
trap 'rm -f "$COPPICE_SKIPS"' EXIT

# --- stages --------------------------------------------------------------------------------------------------
begun=$(date +%s)
table=''
row() { table="$table$(printf '  %-10s %6s s  %s' "$1" "$2" "$3")
"; }
summary() {
    printf '\n%s' "$table"
    printf '  %-10s %6s s\n' all $(($(date +%s) - begun))
    if [ -s "$COPPICE_SKIPS" ]; then
        printf '\nskipped tests: %s\n' "$(wc -l <"$COPPICE_SKIPS")"
        sort "$COPPICE_SKIPS" | sed 's/^/  /'
    fi
}
# stage NAME COMMAND...: runs it without a terminal's input, and ends everything when it fails.
stage() {
    name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    stage_begun=$(date +%s)
    code=0
    "$@" </dev/null || code=$?
    took=$(($(date +%s) - stage_begun))
    if [ $code -ne 0 ]; then
        row "$name" "$took" FAILED
        summary
        case $1 in
            "$name") printf 'FAILED: %s, with code %s; its words are above the table\n' "$name" "$code" ;;
            *) printf 'FAILED: %s, with code %s. Again, alone: %s\n' "$name" "$code" "$*" ;;
        esac
        exit 1
    fi
    row "$name" "$took" ok
    printf '== %s: ok, %s s\n' "$name" "$took"
}

scripts() {
    git -c safe.directory='*' ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 shellcheck -x &&
        shellcheck -s dash examples/lab/image/init # busybox's shell: near enough
}
docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked; }
tests() {
    # The tests end to end run the program itself. With --tests it is built from the same crates as the tests are.
    cargo build --workspace --bins --tests --locked || return
    if cargo nextest --version >/dev/null 2>&1; then
        # All failures, not only the first; what passes is only counted.
        cargo nextest run --config-file tests/nextest.toml --workspace --locked --no-fail-fast --status-level fail --final-status-level fail
    else
        echo 'cargo-nextest is not there (cargo install cargo-nextest --locked makes the tests faster): cargo test runs them'
        cargo test --workspace --locked --no-fail-fast --lib --bins --tests -- --quiet
    fi
}

# The other half of the simulated grids, without openraft's debug assertions, as in a release: each half finds what the
# other does not. Only openraft and what is made of it is built again.
grids() {
    COPPICE_GRIDS=$((grids / 2))..$grids cargo test --config profile.dev.package.openraft.debug-assertions=false \
        --workspace --locked --quiet --test grids -- every_grid
}

if [ -n "$install" ]; then stage packages sh examples/lab/packages.sh shellcheck strace genisoimage iproute2 iputils-arping util-linux; fi
stage scripts scripts
stage fmt cargo fmt --all --check
stage clippy cargo clippy --workspace --all-targets --locked -- -D warnings
stage docs docs
COPPICE_GRIDS=0..$((grids / 2)) && export COPPICE_GRIDS
stage tests tests
stage grids grids
stage doctests cargo test --workspace --locked --doc --quiet
summary
echo "PASSED: every stage, with $seeds seeds, and $grids grids on simulated raft"
