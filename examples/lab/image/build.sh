#!/bin/sh
# Builds the lab's golden image: a disk of 64 MiB, about 16 MB as a qcow2 file, that boots in seconds even
# under emulation, shows a text desktop, and answers the guest agent.
#
#     sh build.sh --out FILE --cache DIR
#
# Everything inside comes from Debian packages; nothing needs a mount, a loop device or root. The packages are
# kept in DIR, so a second build needs no network. The same packages give the same bytes: every identifier,
# time stamp and order that would differ is fixed (SOURCE_DATE_EPOCH is honoured). The image contains GPL
# software, which is why it is built here and never shipped with Coppice.
set -eu

export LC_ALL=C TZ=UTC
: "${SOURCE_DATE_EPOCH:=1767225600}" # 2026-01-01: any fixed moment will do
export SOURCE_DATE_EPOCH
export E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH" # mke2fs before 1.47.1 knows only this name

fail() {
    printf 'image: %s\n' "$*" >&2
    exit 1
}

usage='usage: sh build.sh --out FILE --cache DIR'
out='' cache=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 wants a value; $usage"
    case $1 in
        --out) out=$2 ;;
        --cache) cache=$2 ;;
        *) fail "unknown argument $1; $usage" ;;
    esac
    shift 2
done
if [ -z "$out" ] || [ -z "$cache" ]; then fail "$usage"; fi

PATH=$PATH:/usr/sbin:/sbin # mke2fs, sfdisk and mkfs.fat, for users whose PATH leaves these out
for tool in apt-get cpio dd dpkg-deb gzip mcopy mke2fs mkfs.fat objdump qemu-img sfdisk strip syslinux; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run examples/lab/packages.sh as root first"
done
[ "$(dpkg --print-architecture)" = amd64 ] || fail 'the image is built from amd64 packages, and this is another architecture'

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache" "$(dirname "$out")"
cache=$(cd "$cache" && pwd)
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
work=$(mktemp -d "${TMPDIR:-/tmp}/coppice-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- packages -----------------------------------------------------------------------------------------------
# choose: which packages, and which versions of them apt offers.
choose() {
    # The kernel has a version in its package's name; the other package of that family only points to it.
    kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
    if [ -z "$kernel" ]; then # no package lists on this machine: what the cache holds will do
        kernel=$(find "$cache" -name 'linux-image-*_amd64.deb' -printf '%f\n' | sort -V | tail -n 1 | cut -d_ -f1)
        if [ -z "$kernel" ]; then
            lacking='apt knows no linux-image-cloud-amd64'
            return 1
        fi
    fi
    packages="$kernel busybox-static qemu-guest-agent
        libc6 libglib2.0-0 libnuma1 libpcre2-8-0 libudev1 liburing2"
    # shellcheck disable=SC2086  # a list of words
    apt-cache policy $packages 2>/dev/null | awk '
        /^[^ ]/ { sub(/:$/, ""); name = $0 }
        /^  Candidate:/ && $2 != "(none)" { print name, $2 }' >"$work/candidates"
}

# package NAME: puts the path of its .deb into $deb, downloading it unless the cache has that very version.
package() {
    version=$(awk -v name="$1" '$1 == name { print $2 }' "$work/candidates")
    if [ -z "$version" ]; then # no package lists: the newest that the cache holds
        deb=$(find "$cache" -name "$1_*_amd64.deb" | sort -V | tail -n 1)
        if [ -z "$deb" ]; then
            lacking="apt knows no package $1"
            return 1
        fi
        return
    fi
    deb=$cache/$1_$(printf %s "$version" | sed 's/:/%3a/g')_amd64.deb # as apt-get download names it
    if [ -s "$deb" ]; then return; fi
    # In a directory of its own, then moved: an interrupted download never looks like a package.
    sandbox=_apt
    if [ "$(id -u)" = 0 ]; then sandbox=root; fi # _apt may not write into root's temporary directory
    mkdir -p "$work/download"
    if ! (cd "$work/download" && apt-get -qq -o "APT::Sandbox::User=$sandbox" download "$1=$version") >"$work/apt" 2>&1; then
        lacking="cannot download $1 $version"
        return 1
    fi
    mv "$work/download/${deb##*/}" "$cache/" || fail "cannot keep ${deb##*/} in $cache"
}

# collect: all packages are in the cache, and $debs names them.
collect() {
    choose || return 1
    debs=''
    for name in $packages; do
        package "$name" || return 1
        debs="$debs $deb"
    done
}

# The archive drops a version when the next one comes: lists that are older than that cost one update.
: >"$work/apt"
if ! collect; then
    [ "$(id -u)" = 0 ] || fail "$lacking. Only root can bring the package lists up to date: run apt-get update as root, then try again"
    if ! apt-get -qq -o DPkg::Lock::Timeout=900 update </dev/null >"$work/apt" 2>&1 || ! collect; then
        cat "$work/apt" >&2
        fail "$lacking, also with new package lists; apt's words are above, if it had any. Is the network up, and" \
            'has /etc/apt/sources.list the main archive of Debian 12?'
    fi
fi

# An image of the same packages, files and tools is the same image.
# shellcheck disable=SC2086  # one word per package, none with a space
inputs=$(
    {
        cat "$here/build.sh" "$here/init"
        for deb in $debs; do basename "$deb"; done
        echo "$SOURCE_DATE_EPOCH"
        dpkg-query -W -f '${Package} ${Version}\n' syslinux syslinux-common mtools dosfstools e2fsprogs qemu-utils fdisk
    } | sha256sum | cut -d' ' -f1
)
if [ -s "$out" ] && [ "$(cat "$out.inputs" 2>/dev/null)" = "$inputs" ]; then
    echo "image: $out is up to date"
    exit 0
fi

# --- the guest's root file system, all of it in the initial RAM disk ----------------------------------------
mkdir -p "$work/kernel" "$work/from"
for deb in $debs; do
    case $deb in
        */linux-image-*) dpkg-deb -x "$deb" "$work/kernel" ;;
        *) dpkg-deb -x "$deb" "$work/from" ;;
    esac
done

root=$work/root
libs=$root/lib/x86_64-linux-gnu
for dir in bin sbin dev proc sys etc/acpi/PWRF lib/modules lib64 run tmp mnt seed usr/sbin var/log "${libs#"$root"/}"; do
    mkdir -p "$root/$dir"
done
ln -s ../run "$root/var/run"
cp "$work/from/bin/busybox" "$root/bin/"
ln -s busybox "$root/bin/sh"
cp "$work/from/usr/sbin/qemu-ga" "$root/usr/sbin/"

# The agent's libraries, and theirs, until nothing new is named.
todo=$root/usr/sbin/qemu-ga
while [ -n "$todo" ]; do
    # shellcheck disable=SC2086  # a list of paths without spaces
    needed=$(objdump -p $todo | awk '$1 == "NEEDED" { print $2 }' | sort -u)
    todo=''
    for lib in $needed; do
        case $lib in
            ld-linux*) dir=$root/lib64 ;; # where the kernel looks for it
            *) dir=$libs ;;
        esac
        [ -e "$dir/$lib" ] && continue
        file=$(find "$work/from" -name "$lib" | sort | head -n 1)
        [ -n "$file" ] || fail "the guest agent now needs $lib, which no package of the list holds: add its package to this script"
        cp -L "$file" "$dir/$lib"
        todo="$todo $dir/$lib"
    done
done
strip --strip-unneeded "$libs"/*.so* "$root/usr/sbin/qemu-ga"

# In the order of loading: insmod resolves nothing. The second list is loaded only for a FAT seed disk.
modules='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_console
    failover net_failover virtio_net virtio_balloon qemu_fw_cfg cdrom isofs evdev button'
fat_modules='fat vfat nls_cp437 nls_ascii nls_utf8'
builtin=$(find "$work/kernel" -name modules.builtin)
copy_modules() { # copy_modules ORDER-FILE NAME...
    order=$1
    shift
    for module in "$@"; do
        file=$(find "$work/kernel" -name "$module.ko")
        if [ -n "$file" ]; then
            cp "$file" "$root/lib/modules/"
            echo "$module" >>"$root/lib/modules/$order"
        elif ! grep -q "/$module\\.ko\$" "$builtin"; then
            fail "$kernel has no module $module: mend the list in this script"
        fi
    done
}
# shellcheck disable=SC2086  # lists of words
copy_modules order $modules
# shellcheck disable=SC2086
copy_modules fat-order $fat_modules

cp "$here/init" "$root/init"
printf 'root::0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
printf 'ID=coppice-tiny\nNAME="Coppice tiny guest"\nPRETTY_NAME="Coppice tiny guest"\nVERSION_ID=1\n' >"$root/etc/os-release"

# What the guest agent calls for guest-shutdown, and acpid for the power button.
cat >"$root/sbin/shutdown" <<'SHUTDOWN'
#!/bin/sh
sync
umount /mnt 2>/dev/null
case "$*" in
    *-r*) exec reboot -f ;;
    *) exec poweroff -f ;;
esac
SHUTDOWN
cat >"$root/etc/acpi/PWRF/00000080" <<'BUTTON'
#!/bin/sh
exec /sbin/shutdown -h -P +0
BUTTON
cat >"$root/etc/udhcpc.sh" <<'LEASE'
#!/bin/sh
# shellcheck disable=SC2154  # udhcpc gives these variables
case $1 in
    bound | renew)
        ifconfig "$interface" "$ip" netmask "$subnet"
        for gateway in $router; do
            route add default gw "$gateway"
            break
        done
        for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
        ;;
esac
exit 0
LEASE
find "$root" -type d -exec chmod 755 {} +
find "$root" -type f -exec chmod 644 {} +
chmod 755 "$root/init" "$root/bin/busybox" "$root/usr/sbin/qemu-ga" "$root/sbin/shutdown" \
    "$root/etc/acpi/PWRF/00000080" "$root/etc/udhcpc.sh" "$root"/lib64/*
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$root" && find . | sort | cpio --quiet -o -H newc -R 0:0 --reproducible) | gzip -9n >"$work/initrd.gz"

# --- the disk: a FAT partition to boot from, and an ext4 partition that each clone writes its state to -------
cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
cat >"$work/syslinux.cfg" <<'BOOT'
DEFAULT coppice
PROMPT 0
TIMEOUT 0
LABEL coppice
 KERNEL vmlinuz
 INITRD initrd.gz
 APPEND console=ttyS0 console=tty0 quiet loglevel=3 mitigations=off nokaslr edd=off tsc=reliable no_timer_check random.trust_cpu=1 panic=1
BOOT
touch -d "@$SOURCE_DATE_EPOCH" "$work/vmlinuz" "$work/initrd.gz" "$work/syslinux.cfg"

mib=1048576
boot_start=1 boot_size=40 state_start=41 state_size=20 disk_size=64 # MiB
truncate -s "${disk_size}M" "$work/disk.raw"
sfdisk -q "$work/disk.raw" <<TABLE
label: dos
label-id: 0xc0991ce0
start=$((boot_start * mib / 512)), size=$((boot_size * mib / 512)), type=e, bootable
start=$((state_start * mib / 512)), size=$((state_size * mib / 512)), type=83
TABLE
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/disk.raw" bs=440 count=1 conv=notrunc status=none

truncate -s "${boot_size}M" "$work/boot.raw"
mkfs.fat -F16 --invariant -n COPPICE "$work/boot.raw" >/dev/null
mcopy -m -i "$work/boot.raw" "$work/vmlinuz" "$work/initrd.gz" "$work/syslinux.cfg" ::
syslinux --install "$work/boot.raw"
dd if="$work/boot.raw" of="$work/disk.raw" bs=$mib seek=$boot_start conv=notrunc,sparse status=none

# No journal: a clone that is killed is regrown, not recovered, and a journal would be a megabyte of writes.
truncate -s "${state_size}M" "$work/state.raw"
mke2fs -q -t ext4 -O '^has_journal' -m 0 -L state -U c0991ce0-0000-4000-8000-000000000001 \
    -E hash_seed=c0991ce0-0000-4000-8000-000000000002,lazy_itable_init=0,root_owner=0:0 "$work/state.raw"
dd if="$work/state.raw" of="$work/disk.raw" bs=$mib seek=$state_start conv=notrunc,sparse status=none

rm -f "$out.part"
qemu-img convert -c -m 1 -f raw -O qcow2 "$work/disk.raw" "$out.part"
mv "$out.part" "$out"
echo "$inputs" >"$out.inputs"
echo "image: built $out ($((($(stat -c %s "$out") + 500000) / 1000000)) MB, sha256 $(sha256sum "$out" | cut -c1-16))"
