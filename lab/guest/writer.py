"""Write to a disk and tell how it went: ``writer.py DEVICE SECONDS [PAUSE_SECONDS]``.

SIGTERM ends it earlier. Prints a line when the first block is written, and one of JSON at the
end: how many blocks were written, how many failed, and the longest time that one of them took.
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
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    device, seconds = sys.argv[1], float(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    # Direct, so that each write waits for the wire and not for the page cache.
    disk = os.open(device, os.O_WRONLY | os.O_DIRECT)
    block = mmap.mmap(-1, BLOCK)
    written = failed = 0
    longest = 0.0
    end = time.monotonic() + seconds
    while not ended and time.monotonic() < end:
        started = time.monotonic()
        block[:8] = written.to_bytes(8, "big")
        try:
            os.pwrite(disk, block, written % BLOCKS * BLOCK)
        except OSError:
            failed += 1
        written += 1
        if written == 1:
            print("writing", flush=True)
        longest = max(longest, time.monotonic() - started)
        if pause:
            time.sleep(pause)
    print(json.dumps({"written": written, "failed": failed, "longest_seconds": round(longest, 3)}))


if __name__ == "__main__":
    main()
