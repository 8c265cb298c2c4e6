"""The process that `lipo_verl.rewards.pool` starts: `… worker module:function seconds`.

It reads one JSON list of arguments per line and answers with one JSON object per line. It ends
when its input ends, so with its parent. A call that takes too long ends it as well, even in C code
and even if the parent is gone: nobody handles the alarm, so the kernel ends the process.
"""

import importlib
import json
import os
import resource
import signal
import sys

GRACE = 2.0
"""Seconds after which the worker ends itself where the parent has not: it died."""

MEMORY = 4 * 2**30
"""Bytes of address space: an expression that wants more raises MemoryError instead of swapping."""


def main() -> None:
    """Serve until the input ends."""
    name, timeout = sys.argv[1], float(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def reply(**message: object) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reply(error=f"{type(error).__name__}: {error}")
        return
    reply(ready=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
        try:
            message = {"value": function(*json.loads(line))}
        except Exception as error:
            message = {"error": f"{type(error).__name__}: {error}"}
        reply(**message)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
