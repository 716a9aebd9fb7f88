#!/bin/sh
# Put into build/initiator what attaching hosts of the lab need and this machine shall not have
# installed: multipath-tools would have multipathd run here, and sudo is not ours to bring.
# (os-brick starts its privileged half with sudo, also for root.)
set -e
packages="multipath-tools kpartx liburcu8 sudo"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
into=$(dirname "$0")/../build
mkdir -p "$into"
into=$(realpath "$into")
echo "Fetching Debian packages for attaching hosts: $packages ..."
mkdir "$folder/packages" "$folder/tree"
cd "$folder/packages"
# shellcheck disable=SC2086
if ! apt-get download --quiet=2 $packages 2>/dev/null; then
    apt-get update --quiet=1
    apt-get download --quiet=2 $packages
fi
# As on the node's own file system, so that the tree can be laid over it.
for name in bin sbin lib; do
    mkdir -p "$folder/tree/usr/$name"
    ln -s "usr/$name" "$folder/tree/$name"
done
for package in *.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink -C "$folder/tree"
done
rm -rf "$into/initiator" "$folder/tree/usr/share"
mv "$folder/tree" "$into/initiator"
# Newer than this script, for make.
touch "$into/initiator"
