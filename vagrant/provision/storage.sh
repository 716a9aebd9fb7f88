#!/bin/sh
# storage.sh PACKAGE PORTAL...: make of this machine a storage host. A volume group "storage" with a
# thin pool on its empty disk, and targetd from the Debian package, on portals at these addresses.
set -eu
here=$(dirname "$0")
package=$1
shift
configuration=/etc/targetd/targetd.toml

"$here/packages.sh" lvm2 dmeventd thin-provisioning-tools targetcli-fb dbus kmod nftables \
    init-system-helpers

# It would restore a configuration of its own over targetd's.
if systemctl --quiet is-enabled rtslib-fb-targetctl.service 2> /dev/null; then
    systemctl --quiet disable --now rtslib-fb-targetctl.service
fi

# By the name that its serial gives it, or else the only disk that nothing is on.
empty_disk() {
    if [ -e /dev/disk/by-id/virtio-volumes ]; then
        realpath /dev/disk/by-id/virtio-volumes
        return
    fi
    found=
    for disk in $(lsblk --nodeps --noheadings --paths --output NAME,TYPE | sed -n 's/ *disk$//p'); do
        [ "$(lsblk --noheadings --output NAME "$disk" | wc -l)" -eq 1 ] || continue
        [ -z "$(blkid --probe --output value --match-token TYPE "$disk" 2> /dev/null)" ] || continue
        found="$found $disk"
    done
    # shellcheck disable=SC2086
    set -- $found
    [ $# -eq 1 ] || { echo "storage.sh: one empty disk is needed, there are $#:$found" >&2; exit 1; }
    echo "$1"
}
if ! vgs storage > /dev/null 2>&1; then
    disk=$(empty_disk)
    echo "Making the volume group storage on $disk ..."
    vgcreate --quiet storage "$disk"
fi
lvs storage/thin > /dev/null 2>&1 ||
    lvcreate --quiet --yes --type thin-pool --name thin --size 2g storage

# Before the package, so that the daemon finds it at its first start.
if [ ! -e $configuration ]; then
    portals=
    for portal in "$@"; do
        portals="$portals${portals:+, }\"$portal\""
    done
    mkdir -p "${configuration%/*}"
    cat > $configuration << CONFIGURATION
portal_addresses = [$portals]

[[pool]]
name = "thick"
volume_group = "storage"

[[pool]]
name = "thin"
volume_group = "storage"
thin_pool = "thin"
CONFIGURATION
fi
version=$(dpkg-deb --field "$package" Version)
if [ "$(dpkg-query --show --showformat='${Version}' targetd 2> /dev/null)" != "$version" ]; then
    echo "Installing targetd $version ..."
    # Nothing is lost that cannot be installed again.
    dpkg --install --force-confold --force-unsafe-io "$package" > /dev/null
fi
systemctl is-active --quiet targetd || systemctl start targetd
