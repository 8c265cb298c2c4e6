"""How a merge is carried out: what one block of rows takes, and who works on which when.

`local` runs on this machine and `ray` on a Ray cluster. Both merge by `job` and hand what they have
to `recorder`, so that they write the same bytes.
"""

from __future__ import annotations


class UnfinishedError(OSError):
    """The merge stopped for a reason outside its inputs; run again, it goes on where it stopped."""


class MergeInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; the message says how far the merge is and how to go on."""
