"""Put the same marks into the logs of several log-writes devices, in step.

``marker.py ADDRESS PORT MILLISECONDS FIRST OTHER...``: each line that comes over
TCP becomes a mark, acknowledged by the same line; between them a tick is marked
every so many milliseconds. A mark goes to the first device before and after the
others: where the first log holds nothing between the two, the places of the mark
in all the logs are one moment.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

# From linux/dm-ioctl.h: struct dm_ioctl, then struct dm_target_msg with its text.
HEADER = struct.Struct("=3I 2I I i 2I I Q 128s 129s 7x")
TARGET_MESSAGE = 14
# _IOWR(0xfd, 14, struct dm_ioctl)
DM_TARGET_MSG = 3 << 30 | HEADER.size << 16 | 0xFD << 8 | TARGET_MESSAGE
VERSION = (4, 0, 0)


def send(control: int, device: str, text: str) -> None:
    """What ``dmsetup message DEVICE 0 TEXT`` does, without a process for each."""
    message = struct.pack("=Q", 0) + text.encode() + b"\0"
    size = HEADER.size + len(message)
    header = HEADER.pack(*VERSION, size, HEADER.size, 0, 0, 0, 0, 0, 0, device.encode(), b"")
    fcntl.ioctl(control, DM_TARGET_MSG, bytearray(header + message))


def mark(control: int, devices: list[str], name: str) -> None:
    first, *others = devices
    for device in (first, *others, first):
        send(control, device, f"mark {name}")


def serve(control: int, devices: list[str], line: socket.socket, seconds: float) -> None:
    line.settimeout(seconds)
    ticks = 0
    text = b""
    while True:
        try:
            data = line.recv(4096)
        except TimeoutError:
            ticks += 1
            mark(control, devices, f"tick-{ticks}")
            continue
        if not data:
            return
        *names, text = (text + data).split(b"\n")
        for name in names:
            mark(control, devices, name.decode())
            line.sendall(name + b"\n")


def main() -> None:
    address, port, milliseconds, *devices = sys.argv[1:]
    control = os.open("/dev/mapper/control", os.O_RDWR)
    with socket.create_server((address, int(port))) as listener:
        print("ready", flush=True)
        line, _ = listener.accept()
        with line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve(control, devices, line, int(milliseconds) / 1000)


if __name__ == "__main__":
    main()
