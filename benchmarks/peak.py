"""Runs a command and prints its peak memory in MiB.

    python benchmarks/peak.py COMMAND ...

It is a separate small process, since a child's figure starts with the memory of its parent.
"""

import os
import sys


def main(command: list[str]) -> int:
    child = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    print(usage.ru_maxrss / 1024)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
