#!/bin/sh
# What every node needs, whoever its process 1 is.
modprobe -a configfs target_core_mod target_core_iblock target_core_file iscsi_target_mod \
    dm_mod dm_thin_pool dm_snapshot iscsi_tcp sd_mod loop ipv6
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
# vec0=10.77.0.11/24,vec0=fd77::11/64,...; one process for all of it.
{
    echo link set lo up
    for given in $(echo "$LAB_ADDRESSES" | tr ',' ' '); do
        case "$given" in
            *:*) echo "address add ${given#*=} dev ${given%%=*} nodad" ;;
            *) echo "address add ${given#*=} dev ${given%%=*}" ;;
        esac
        echo "link set ${given%%=*} up"
    done
} | ip -batch -
mount -t hostfs -o "$LAB_SHARE" none /media
