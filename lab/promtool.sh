#!/bin/sh
# Put promtool, which checks alert rules, into build/. Debian has it in a package that
# would also run a Prometheus on this machine, so only the one program is taken out.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
into=$(dirname "$0")/../build
mkdir -p "$into"
into=$(realpath "$into")
echo "Fetching promtool from Debian's package prometheus ..."
cd "$folder"
if ! apt-get download --quiet=2 prometheus 2>/dev/null; then
    apt-get update --quiet=1
    apt-get download --quiet=2 prometheus
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract ./usr/bin/promtool
# Newer than this script, for make.
touch usr/bin/promtool
mv usr/bin/promtool "$into/promtool"
