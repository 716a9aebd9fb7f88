"""Write to a disk and tell how it went: ``writer.py DEVICE SECONDS [PAUSE_SECONDS]``.

SIGTERM ends it earlier. Prints one line of JSON: how many blocks were written, how many
failed, and the longest time that one of them took.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time

BLOCK = 4096
BLOCKS = 256


def main() -> None:
    device, seconds = sys.argv[1], float(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    # Direct, so that each write waits for the wire and not for the page cache.
    disk = os.open(device, os.O_WRONLY | os.O_DIRECT)
    block = mmap.mmap(-1, BLOCK)
    written = failed = 0
    longest = 0.0
    end = time.monotonic() + seconds
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    while not ended and time.monotonic() < end:
        started = time.monotonic()
        block[:8] = written.to_bytes(8, "big")
        try:
            os.pwrite(disk, block, written % BLOCKS * BLOCK)
        except OSError:
            failed += 1
        written += 1
        longest = max(longest, time.monotonic() - started)
        if pause:
            time.sleep(pause)
    print(json.dumps({"written": written, "failed": failed, "longest_seconds": round(longest, 3)}))


if __name__ == "__main__":
    main()
