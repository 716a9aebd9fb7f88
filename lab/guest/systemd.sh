#!/bin/sh
# systemd as process 1, with no more of the host's units than a service needs.
E=/etc/systemd/system
rm -rf $E/*.wants $E/*.requires
mkdir -p /etc/systemd/system-generators $E/lab.target.wants
for generator in /lib/systemd/system-generators/*; do
    ln -sf /dev/null "/etc/systemd/system-generators/${generator##*/}"
done
keep=" systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket \
systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
systemd-tmpfiles-setup-dev.service "
for wanted in /lib/systemd/system/*.target.wants/*; do
    unit=${wanted##*/}
    case "$keep" in *" $unit "*) continue ;; esac
    case "$unit" in *.target | *.slice | *.path) continue ;; esac
    ln -sf /dev/null "$E/$unit"
done
cat /proc/sys/kernel/random/uuid | tr -d - > /etc/machine-id
env | grep '^LAB_' > /run/lab.env
cat > $E/lab-services.service <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/run/lab.env
ExecStart=$LAB_GUEST/services.sh
UNIT
cat > $E/lab-agent.service <<UNIT
[Unit]
DefaultDependencies=no
After=lab-services.service systemd-udevd.service
Requires=lab-services.service
[Service]
ExecStartPre=/bin/udevadm trigger --action=add --subsystem-match=block
ExecStartPre=/bin/udevadm settle
ExecStart=/usr/bin/python3 $LAB_GUEST/agent.py
KillMode=process
Environment=HOME=/root
UNIT
cat > $E/lab.target <<UNIT
[Unit]
Requires=systemd-journald.socket systemd-udevd-control.socket systemd-udevd-kernel.socket
Wants=systemd-journald.service systemd-udevd.service lab-agent.service
UNIT
exec /lib/systemd/systemd --unit=lab.target --show-status=no
