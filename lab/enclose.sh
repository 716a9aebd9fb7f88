#!/bin/sh
# enclose.sh FOLDER... -- PROGRAM: run a program to which all of this machine's
# files are read-only but those below the folders. A node's root can mount the
# machine's files for writing by itself; this is what keeps them as they are.
# It is process 1 of the node's process namespace: whatever the node's kernel
# leaves behind ends with it, and is buried by it.
set -e
mount --make-rprivate /
while [ "$1" != -- ]; do
    mount --bind "$1" "$1"
    kept="$kept $1 "
    shift
done
shift
# Two rounds: what could not be made read-only must not stay writable unseen.
for round in remount check; do
    while read -r _ _ _ _ escaped _; do
        point=$(printf '%b' "$escaped")
        case "$kept" in *" $point "*) continue ;; esac
        if [ $round = remount ]; then
            mount -o remount,bind,ro "$point" 2>/dev/null || true
        elif [ -w "$point" ]; then
            echo "enclose.sh: $point cannot be made read-only" >&2
            exit 1
        fi
    done < /proc/self/mountinfo
done
set +e
"$@"
exit $?
