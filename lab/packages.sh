#!/bin/sh
# Install the Debian packages that the lab and the tests need and the machine lacks.
set -e
wanted="user-mode-linux busybox-static iproute2 lvm2 thin-provisioning-tools open-iscsi
targetcli-fb dbus-daemon kmod udev uml-utilities e2fsprogs util-linux python3-venv nftables zsh fish
postgresql-15"
missing=
for package in $wanted; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null |
        grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "packages are missing; as root, run: apt-get install$missing" >&2
    exit 1
fi
echo "Installing Debian packages:$missing ..."
export DEBIAN_FRONTEND=noninteractive
# The tests start a PostgreSQL of their own; the package would start one for this machine.
cluster=/etc/postgresql-common/createcluster.conf
case "$missing" in *postgresql*)
    if [ ! -e $cluster ]; then
        mkdir -p "${cluster%/*}"
        echo "create_main_cluster = false" >$cluster
    fi ;;
esac
apt-get update --quiet=1
# shellcheck disable=SC2086
apt-get install --quiet=1 --yes --no-install-recommends \
    --option Dpkg::Options::=--force-confold $missing
