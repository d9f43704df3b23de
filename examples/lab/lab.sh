# Read by up.sh and down.sh: where the lab is, and whether its server is running.
# shellcheck shell=sh

say=lab
# shellcheck source=examples/lab/common.sh
. "${here:?}/common.sh"

# Everything of the lab is in here, and nothing of it elsewhere.
lab=$(directory COPPICE_LAB_DIR "${COPPICE_LAB_DIR:-/var/lib/coppice-lab}" 40) || exit 1

# This file says that the directory is a lab, to be filled and removed by these scripts.
# shellcheck disable=SC2034  # for those who read this file
marker=$lab/.coppice-lab

# daemon: prints the process id of the lab's own server while it runs.
daemon() { runs "$lab/serve.pid"; }
