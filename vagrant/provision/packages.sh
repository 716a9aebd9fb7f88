#!/bin/sh
# packages.sh PACKAGE...: install those that are missing. With OFFLINE=1 a missing one is an error.
set -eu
installed=" $(dpkg-query --show --showformat='${db:Status-Status}:${Package} ' "$@" 2> /dev/null || true)"
missing=
for package in "$@"; do
    case "$installed" in *" installed:$package "*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0
if [ -n "${OFFLINE:-}" ]; then
    echo "packages.sh: not in the box:$missing; build it anew (vagrant/box/build)" >&2
    exit 1
fi
echo "Installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# shellcheck disable=SC2086
apt-get install --quiet=2 --yes --no-install-recommends $missing > /dev/null
