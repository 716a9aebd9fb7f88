#!/bin/sh
# What every node needs, whoever its process 1 is.
modprobe -a configfs target_core_mod target_core_iblock target_core_file iscsi_target_mod \
    dm_mod dm_thin_pool dm_snapshot iscsi_tcp sd_mod loop
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
ip link set lo up
n=0
for address in $(echo "$LAB_ADDRESSES" | tr ',' ' '); do
    ip address add "$address/24" dev "vec$n"
    ip link set "vec$n" up
    n=$((n + 1))
done
mount -t hostfs -o "$LAB_SHARE" none /media
