#!/bin/sh
# initiator.sh: make of this machine a host that attaches, with open-iscsi and multipathd.
set -eu
here=$(dirname "$0")
"$here/packages.sh" open-iscsi multipath-tools nftables python3

name="InitiatorName=iqn.2026-01.org.example.lab:$(hostname)"
file=/etc/iscsi/initiatorname.iscsi
if [ "$(cat $file 2> /dev/null)" != "$name" ]; then
    (umask 077 && echo "$name" > $file)
    systemctl --quiet restart iscsid.service
fi
echo iscsi_tcp > /etc/modules-load.d/targetd-initiator.conf
modprobe iscsi_tcp
# A storage host that comes back after longer than this finds failed writes. Where processors are
# emulated, it is away for two minutes.
sed -i 's/^node.session.timeo.replacement_timeout = .*/node.session.timeo.replacement_timeout = 600/' \
    /etc/iscsi/iscsid.conf
# Sessions are made by who attaches, and not at boot.
sed -i 's/^node.startup = .*/node.startup = manual/' /etc/iscsi/iscsid.conf
for service in iscsid multipathd; do
    systemctl --quiet is-enabled $service.service || systemctl --quiet enable $service.service
    systemctl --quiet is-active $service.service || systemctl --quiet start $service.service
done
