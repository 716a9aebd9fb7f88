#!/bin/busybox sh
# First program of a node: lay a writable memory layer over the host's files,
# which are read-only here, and go on inside it.
B=/bin/busybox
# Until this mount /proc is the host's, in which a program is not itself.
$B mount -t proc proc /proc
K=$($B uname -r)
M=/usr/lib/uml/modules/$K
R=/mnt/root
$B insmod $M/kernel/fs/overlayfs/overlay.ko
$B mount -t tmpfs -o size=70%,mode=755 over /mnt
$B mkdir /mnt/up /mnt/wk $R
$B mount -t overlay -o nosuid,lowerdir=/,upperdir=/mnt/up,workdir=/mnt/wk over $R
$B mount -t proc proc $R/proc
$B mount -t sysfs sysfs $R/sys
$B mount -t devtmpfs dev $R/dev
$B mkdir -p $R/dev/pts $R/dev/shm
$B mount -t devpts devpts $R/dev/pts
$B mount -t tmpfs shm $R/dev/shm
$B mount -t tmpfs -o mode=755 run $R/run
$B ln -s /proc/self/fd $R/dev/fd
$B ln -s /proc/self/fd/0 $R/dev/stdin
$B mkdir -p $R/run/lock/lvm $R/run/lvm $R/run/lock/iscsi $R/usr/lib/modules
$B ln -s $M $R/usr/lib/modules/$K
cd $R || exit 1
$B pivot_root . mnt
exec $B chroot . $B sh -c "$B umount -l /mnt; exec $LAB_GUEST/stage2.sh </dev/console >/dev/console 2>&1"
