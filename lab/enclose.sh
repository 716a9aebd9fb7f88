#!/bin/sh
# enclose.sh FOLDER... -- PROGRAM: run a program to which all of the host's files
# are read-only but those below the folders. A node's root can mount the host's
# files for writing by itself; this is what keeps them as they are.
set -e
mount --make-rprivate /
while [ "$1" != -- ]; do
    mount --bind "$1" "$1"
    kept="$kept $1 "
    shift
done
shift
while read -r _ _ _ _ point _; do
    case "$kept" in *" $point "*) continue ;; esac
    mount -o remount,bind,ro "$point" 2>/dev/null || true
done < /proc/self/mountinfo
exec "$@"
