"""Made-up rows of the bench's sets."""

from examples.evidence.merging import rows
from examples.evidence.merging.rows import Row, Set


def write(folder, bench, accuracies):
    """accuracies: by number of experts, merges and the accuracy of every skill."""
    made = [
        Row(experts, merge.method, dict(merge.parameters), [accuracy] * experts, [9.0] * experts)
        for experts, merges in accuracies.items()
        for merge, accuracy in merges
    ]
    rows.write(bench.file(folder), made)
    return Set(bench.phase, bench.family, bench.kind, bench.seed), rows.read(bench.file(folder))
