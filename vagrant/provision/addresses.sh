#!/bin/sh
# addresses.sh INTERFACE=ADDRESS/BITS...: what Vagrant does itself with another box than ours,
# and slowly.
set -eu
for given in "$@"; do
    file=/etc/systemd/network/20-${given%%=*}.network
    new=$(printf '[Match]\nName=%s\n[Network]\nAddress=%s\n' "${given%%=*}" "${given#*=}")
    [ "$(cat "$file" 2> /dev/null)" = "$new" ] || echo "$new" > "$file"
done
networkctl reload
for given in "$@"; do
    networkctl up "${given%%=*}"
done
