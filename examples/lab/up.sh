#!/bin/sh
# One command from a fresh Debian 12 to three real desktops: linked clones of one golden image, in QEMU.
#
#     sh examples/lab/up.sh
#
# Run it again at any time: what is there stays, what is missing is made, what you edited is applied.
#
#   COPPICE_LAB_DIR     where everything is kept (/var/lib/coppice-lab)
#   COPPICE_LAB_PORT    the port of the API on 127.0.0.1 (the first free one from 7443 on)
#   COPPICE_LAB_BINARY  a coppice to use instead of building one
#   COPPICE_LAB_IMAGE   a disk image to use instead of building one
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=examples/lab/lab.sh
. "$here/lab.sh"

begun=$(now)
# shellcheck disable=SC2034  # for step
step_begun=$begun

# --- packages, as root ---------------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || fail 'this must run as root: it installs packages and starts virtual machines (sudo sh examples/lab/up.sh)'
words=$(sh "$here/packages.sh") || exit 1 # it has said why
step packages "$(printf '%s\n' "$words" | sed -n '$s/^packages: //p')"
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

# --- the directory -------------------------------------------------------------------------------------------
claim "$lab" "$marker" examples/lab COPPICE_LAB_DIR

# --- the binary ----------------------------------------------------------------------------------------------
take_binary "$lab" "${COPPICE_LAB_BINARY:-}" COPPICE_LAB_BINARY "$root"
mkdir -p "$lab/bin"
if ! cmp -s "$binary" "$lab/bin/coppice"; then
    cp "$binary" "$lab/bin/coppice.new"
    mv "$lab/bin/coppice.new" "$lab/bin/coppice"
    if pid=$(daemon); then # of the former binary; its desktops run on, and the new one takes them over
        end "$pid" 30
        words="$words; stopped the server of the former one"
    fi
fi
step binary "$words"

# --- the golden image ----------------------------------------------------------------------------------------
if [ -e "$lab/imported" ]; then
    step image 'tiny, version 1, is in the grid already'
elif [ -n "${COPPICE_LAB_IMAGE:-}" ]; then
    image=$COPPICE_LAB_IMAGE
    [ -r "$image" ] || fail "COPPICE_LAB_IMAGE is $image, which cannot be read"
    step image "took $image"
else
    image=$lab/image/tiny.qcow2
    words=$(sh "$here/image/build.sh" --out "$image" --cache "$lab/image/packages" 9>&-) || exit 1
    step image "${words#image: }"
fi

# --- the grid ------------------------------------------------------------------------------------------------
# listening PORT: something on this machine already has it.
listening() {
    hex=$(printf '%04X' "$1")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port=":$hex" '
        $4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'
}
config=$lab/data/coppice.toml
if [ -e "$lab/init.begun" ]; then rm -rf "$lab/data"; fi # an init that was cut off: nothing ran on it yet
if [ ! -e "$config" ]; then
    port=${COPPICE_LAB_PORT:-}
    if [ -z "$port" ]; then
        port=7443
        while listening $port; do
            port=$((port + 1))
            [ $port -lt 7543 ] || fail 'ports 7443 to 7542 are all taken: set COPPICE_LAB_PORT'
        done
    elif listening "$port"; then
        fail "port $port is taken: set COPPICE_LAB_PORT to a free one"
    fi
    : >"$lab/init.begun"
    "$lab/bin/coppice" init --data "$lab/data" --name lab --listen "127.0.0.1:$port" \
        --hypervisor "qemu:///embed?root=$lab/hv" </dev/null >"$lab/init.log" 2>&1 9>&- ||
        stopped "$lab/init.log" 'coppice init failed'
    cat >"$lab/env" <<ENV
# Read this file (. $lab/env) and coppice finds the grid of the lab.
export COPPICE_LAB_DIR=$lab
export COPPICE_SERVER=https://127.0.0.1:$port
export COPPICE_TOKEN_FILE=$lab/data/admin.token
export COPPICE_CA_FILE=$lab/data/ca.pem
case ":\$PATH:" in *":$lab/bin:"*) ;; *) export PATH="$lab/bin:\$PATH" ;; esac
ENV
    rm "$lab/init.begun"
    step init "grid lab in $lab/data"
fi
[ -s "$lab/env" ] || fail "$lab/env is missing, someone removed it: run examples/lab/down.sh, then this again"
# shellcheck disable=SC1091  # written above
. "$lab/env"

if pid=$(daemon); then
    words="runs already, process $pid"
else
    # In a session of its own: it outlives this script and its terminal.
    setsid "$lab/bin/coppice" serve --config "$config" </dev/null >>"$lab/serve.log" 2>&1 9>&- &
    pid=$!
    process "$pid" >"$lab/serve.pid" || stopped "$lab/serve.log" 'coppice serve ended at once'
    words="started, process $pid"
fi
answers=$(($(now) + 60000))
until coppice status >/dev/null 2>"$lab/status.log" 9>&-; do
    daemon >/dev/null || stopped "$lab/serve.log" 'coppice serve has ended'
    if [ "$(now)" -ge $answers ]; then
        cat "$lab/status.log" >&2
        stopped "$lab/serve.log" "coppice serve runs (process $pid), and coppice status fails for a minute; its words are above"
    fi
    sleep 0.2
done
step server "$words, at $COPPICE_SERVER"

if [ ! -e "$lab/imported" ]; then
    coppice image import tiny "$image" --version 1 </dev/null 9>&- || fail 'the image could not be imported; coppice has said why'
    sha256sum "$image" >"$lab/imported"
    step import 'tiny, version 1'
fi

# --- the desktops --------------------------------------------------------------------------------------------
coppice apply "$here" --yes --wait </dev/null 9>&- || {
    code=$?
    echo "--- the server's log is $lab/serve.log" >&2
    fail "coppice apply ended with code $code; it has said why"
}
step apply "$here"

patience=$(($(now) + 300000))
while
    desired=$(count lab desired "$lab/status.log")
    available=$(count lab available "$lab/status.log")
    [ -z "$desired" ] || [ -z "$available" ] || [ "$available" -lt "$desired" ]
do
    daemon >/dev/null || stopped "$lab/serve.log" 'coppice serve has ended'
    if [ "$(now)" -ge $patience ]; then
        cat "$lab/status.log" >&2
        coppice status >&2 || :
        stopped "$lab/serve.log" "after five minutes ${available:-none} of ${desired:-the} desktops are available; the status is above"
    fi
    sleep 0.5
done
step desktops "$available of $desired are available"
step_begun=$begun
step all "$lab"

echo
coppice status
cat <<NEXT

What to try next, in this directory: cd $root
  . $lab/env
      so that coppice finds the grid
  coppice desktop list
      the desktops, each a QEMU of its own; coppice desktop console lab-01 shows one in any VNC viewer
  coppice plan examples/lab; coppice apply examples/lab
      after an edit of examples/lab/desktops.hcl, say to desktops = 5
  sh examples/lab/down.sh
      all of it away again
The story is told in examples/lab/README.md.
NEXT
