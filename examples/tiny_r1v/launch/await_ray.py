"""Waits until a Ray cluster has all of its nodes.

RAY_ADDRESS=head:6379 python -m examples.tiny_r1v.launch.await_ray --nodes 2 --gpus 8
"""

from __future__ import annotations

import argparse
import sys
import time

import ray


def ready_nodes(gpus: int) -> int:
    """Nodes with so many GPUs of the cluster that RAY_ADDRESS names, 0 while there is none."""
    try:
        ray.init(logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError):
        return 0
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return sum(node["Resources"].get("GPU", 0) >= gpus for node in nodes)
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of each node")
    parser.add_argument("--timeout", type=float, default=300, help="seconds")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.timeout
    while (found := ready_nodes(arguments.gpus)) < arguments.nodes:
        if time.monotonic() > deadline:
            sys.exit(
                f"Only {found} of {arguments.nodes} Ray nodes with {arguments.gpus} GPUs came up "
                f"in {arguments.timeout:.0f} s. Look at the output of `ray start` on the others: a "
                "firewall, another Ray, or another version of Python or Ray."
            )
        time.sleep(2)


if __name__ == "__main__":
    main()
