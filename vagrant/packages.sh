#!/bin/sh
# packages.sh qemu|vagrant: install the Debian packages that are needed and that the machine lacks.
set -e
wanted="qemu-system-x86 qemu-utils openssh-client python3-venv mmdebstrap fdisk extlinux syslinux-common
e2fsprogs util-linux"
[ "$1" = qemu ] || wanted="$wanted vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients
libvirt-daemon-driver-qemu dnsmasq-base iptables iproute2 rsync"
missing=
for package in $wanted; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null |
        grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "packages are missing; as root, run: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "Installing Debian packages:$missing ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=1
# shellcheck disable=SC2086
apt-get install --quiet=1 --yes --no-install-recommends $missing
