"""Runs a command that cannot outlive the process which asked for it: `python guard.py PARENT_PID COMMAND…`.

On Linux the kernel is told to kill this process when its parent dies, however it dies; the command then takes its place and keeps
that promise. Elsewhere the command just takes its place. The file is run by its path and imports nothing of this package, so that
it costs 10 ms rather than a second.
"""

import ctypes
import os
import signal
import sys

# From linux/prctl.h. The setting survives `exec`, and not `fork`: the commands run here start no processes of their own.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replaces this process with the command. Ends at once if the parent has gone already."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted: this is what the module is for


if __name__ == "__main__":
    main()
