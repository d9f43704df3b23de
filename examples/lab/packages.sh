#!/bin/sh
# Installs the Debian packages that Coppice needs to be built and to run desktops. When all are there it calls
# nothing and takes no time.
#
#     sh packages.sh [EXTRA-PACKAGE...]
#
# Debian 12 offers qemu from its own archive, but a machine may carry a newer qemu-utils (from backports, as
# some cloud images do), which refuses to stand beside it. So qemu's packages are installed in one version.
set -eu
export LC_ALL=C

fail() {
    printf 'packages: %s\n' "$*" >&2
    exit 1
}

# Where the system's own files are looked up; only the tests of this script set it.
system=${COPPICE_PACKAGES_SYSTEM:-}

# --- may we touch this machine at all? -----------------------------------------------------------------------
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

if [ -e "$system/etc/pve" ] || installed pve-manager; then
    fail "this is a Proxmox VE host: Debian's qemu would remove Proxmox's, and its virtual machines with it." \
        'Nothing was changed. Use another Debian 12 machine, or a virtual machine on this one.'
fi
release=$(sed -n 's/^ID=//p; s/^VERSION_ID=//p' "$system/etc/os-release" 2>/dev/null | tr -d '"' | sort | tr '\n' ' ')
[ "$release" = '12 debian ' ] ||
    fail "this is not Debian 12 (/etc/os-release says: ${release:-nothing}); the packages are known for Debian 12 only." \
        'Nothing was changed. Elsewhere install qemu, libvirt and their development files yourself; ARCHITECTURE.md names what is used.'

# --- Rust: Debian 12's own is too old, and rustup is no Debian package ---------------------------------------
root=$(cd "$(dirname "$0")/../.." && pwd)
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin # where rustup puts it; a shell older than rustup does not know
rustup='install it with rustup (https://rustup.rs), as its page says, or with: rustup update stable'
command -v cargo >/dev/null || fail "cargo is missing, and Debian 12's is too old (Rust $wanted or newer is needed): $rustup"
found=$(cargo --version 2>/dev/null | cut -d' ' -f2)
[ -n "$found" ] || fail "cargo does not run: cargo --version says why. Rust $wanted or newer is needed: $rustup"
oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
[ "$oldest" = "$wanted" ] || fail "cargo is $found, and Rust $wanted or newer is needed: $rustup"

# --- packages ------------------------------------------------------------------------------------------------
# To build: a C toolchain (crates with C parts), libvirt's headers. To run: QEMU, libvirt's client library and
# its QEMU driver. The embedded hypervisor is that driver without a daemon, and yet it asks for the user
# libvirt-qemu, whom only libvirt-daemon-system makes. For the golden image: the rest.
qemu='qemu-system-x86 qemu-utils'
others='gcc libc6-dev make pkg-config libvirt-dev git
    libvirt0 libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients
    binutils cpio dosfstools e2fsprogs fdisk genisoimage mtools syslinux syslinux-common'
missing=''
# shellcheck disable=SC2086  # lists of words
for name in $qemu $others "$@"; do
    installed "$name" || missing="$missing $name"
done
if [ -z "$missing" ]; then
    echo 'packages: all are installed'
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "these packages are missing, and only root can install them:$missing"
command -v apt-get >/dev/null || fail 'apt-get is missing'
echo "packages: installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp "${TMPDIR:-/tmp}/coppice-packages.XXXXXX")
trap 'rm -f "$log"' EXIT
# The lock is waited for: a fresh machine often runs its own upgrades first.
apt() { apt-get -qq -o DPkg::Lock::Timeout=900 -o Acquire::Retries=3 "$@" </dev/null >>"$log" 2>&1; }

# Names each missing package for apt; as soon as one of qemu's is missing, all of qemu's that are here get one
# version: that of a qemu-system-x86 that is here already, otherwise Debian's own.
name_them() {
    named='' pinned=''
    for name in $missing; do
        case " $qemu " in
            *" $name "*) pinned=yes ;;
            *) named="$named $name" ;;
        esac
    done
    [ -n "$pinned" ] || return 0
    if installed qemu-system-x86; then
        version=$(dpkg-query -W -f '${Version}' qemu-system-x86)
    else # not the newest that apt knows: backports may be among the sources
        version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ && $2 != "(none)" { print $2 }')
    fi
    [ -n "$version" ] || return 1
    here=$(dpkg-query -W -f '${source:Package} ${db:Status-Status} ${Package}\n' 'qemu-*' | awk '$1 == "qemu" && $2 == "installed" { print $3 }')
    # shellcheck disable=SC2086  # lists of words
    for name in $(printf '%s\n' $qemu $here | sort -u); do
        # A rebuild's suffix (+b3) is not in the version of packages that are the same for all architectures.
        for each in "$version" "${version%+b[0-9]*}"; do
            if apt-cache madison "$name" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | grep -qxF "$each"; then
                named="$named $name=$each"
                break
            fi
        done
    done
}
# shellcheck disable=SC2086  # lists of words
attempt() { name_them && apt install -y --no-install-recommends --allow-downgrades $named; }

# Package lists that are absent or older than the archive cost one more attempt; fresh ones cost no update.
if ! attempt; then
    if ! apt update || ! attempt; then
        tail -n 20 "$log" >&2
        fail 'apt-get could not install them; its last words are above. Is the network up, and has' \
            "/etc/apt/sources.list the main archive of Debian 12? By hand: apt-get install --allow-downgrades$named"
    fi
fi
# shellcheck disable=SC2086
for name in $qemu $others "$@"; do
    installed "$name" || fail "apt-get said it was done, and $name is still not installed"
done
echo 'packages: installed'
