"""``python -m gpu_pool.held FD FILE GRACE COMMAND…``: `supervise` on a node of Ray.

It holds the lease of the job's folder as long as anything of the job lives, and stands apart from
the Ray worker: of a worker that ends, Ray kills the direct children, and the job would have no time
to save.
"""

import os
import signal
import sys
from pathlib import Path

from gpu_pool.lease import Lease
from gpu_pool.supervise import Supervisor


def hold(handle: str, file: str, grace: str, *command: str) -> int:
    """Run a command; returns its exit code."""
    lease = Lease(Path(file), int(handle))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it, for all children
    try:
        return Supervisor(list(command), float(grace), lease.beat).run()
    finally:
        lease.release()


if __name__ == "__main__":
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.exit(code if code >= 0 else 128 - code)
    sys.exit(hold(*sys.argv[1:]))
