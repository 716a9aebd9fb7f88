#!/bin/sh
# Second program of a node, in its own file system: name it, then start the
# node's services, by systemd or by this script itself.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
echo "$LAB_HOST" > /proc/sys/kernel/hostname
echo "$LAB_HOST" > /etc/hostname
rm -f /etc/fstab
{ echo 127.0.0.1 localhost; echo "$LAB_HOSTS" | tr ',' '\n' | tr '=' ' '; } > /etc/hosts
mkdir -p /etc/iscsi
echo "InitiatorName=$LAB_INITIATOR" > /etc/iscsi/initiatorname.iscsi
# What the host's own LVM or LIO may have left in its /etc is not the node's.
rm -rf /etc/target /etc/lvm/archive /etc/lvm/backup /etc/lvm/devices /etc/iscsi/nodes /var/lib/iscsi
# Starting LVM's event daemon costs each first thin volume of a node 2 s.
echo 'activation { monitoring = 0 }' > /etc/lvm/lvmlocal.conf
# What was packed for this node.
cp -r --preserve=mode "${LAB_SHARE%/*}/image/." /

if [ -n "$LAB_SYSTEMD" ]; then
    exec "$LAB_GUEST/systemd.sh"
fi
"$LAB_GUEST/services.sh"
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --subsystem-match=block
udevadm settle
/usr/bin/python3 "$LAB_GUEST/agent.py" &
# Process 1 buries the orphans.
while :; do wait; sleep 1; done
