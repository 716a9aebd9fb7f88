#!/bin/sh
# name.sh NAME: what Vagrant does itself with another box than ours, and slowly.
set -eu
if [ "$(hostname)" != "$1" ]; then
    echo "$1" > /etc/hostname
    hostname "$1"
fi
grep -q "^127.0.1.1 $1\$" /etc/hosts || sed -i "s/^127.0.1.1 .*/127.0.1.1 $1/" /etc/hosts
