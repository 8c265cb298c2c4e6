"""Two nodes of a cluster on this machine, for root: network namespaces with an Ethernet between.

Each has its own host name, processes, /dev/shm and Ray files. They share the disk, as a cluster's
nodes do. `srun` and `scontrol` are stand-ins.
"""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import psutil

INTERFACE = "wire"

SRUN = r"""#!/bin/bash
# Runs a step on the node that --nodelist names. All that it has started ends with it, or when it is
# told to end and has not after a while.
while [[ $1 == --* ]]; do
    [[ $1 != --nodelist=* ]] || node=${1#*=}
    shift
done
ip netns exec "$node" unshare --mount --uts --pid --fork --kill-child --mount-proc bash -c '
    set -e
    hostname "$0"
    mount -t tmpfs shm /dev/shm
    mkdir -p /tmp/ray
    mount -t tmpfs ray /tmp/ray
    exec "$@"
' "$node" "$@" &
step=$!
trap 'pkill -TERM --parent $step
      timeout 20 tail --pid=$step -f /dev/null || kill -KILL $step
      wait $step' TERM
wait $step
"""


def possible():
    """Whether this user can make network namespaces."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        return False
    step = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "true")
    return subprocess.run(step, capture_output=True).returncode == 0  # a container's root may not


@contextmanager
def two_nodes():
    """The names of two nodes that reach each other at 10.77.0.1 and 10.77.0.2."""
    names = [f"lipo-{os.getpid()}-{number}" for number in (1, 2)]
    for name in names:
        _ip("netns", "add", name)
    try:
        _ip(
            *("link", "add", INTERFACE, "netns", names[0], "type", "veth"),
            *("peer", "name", INTERFACE, "netns", names[1]),
        )
        for number, name in enumerate(names, 1):
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            _end(processes_of(name))  # as Slurm does when a job has ended
            _ip("netns", "delete", name)


def slurm(nodes, folder, repository):
    """The environment that Slurm gives a job on the nodes; its tools go into the folder."""
    tools = {"srun": SRUN, "scontrol": f"#!/bin/bash\nprintf '%s\\n' {' '.join(nodes)}\n"}
    for name, script in tools.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "INTERFACE": INTERFACE,
        "SLURM_SUBMIT_DIR": str(repository),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": ",".join(nodes),
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "32",
    }


def processes_of(node):
    """The processes in a node's network."""
    pids = subprocess.run(
        ("ip", "netns", "pids", node), check=True, capture_output=True, text=True
    ).stdout.split()
    return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]


def lose(node):
    """As a power failure does: nothing more comes from it, not even an end of its connections."""
    _ip("-n", node, "link", "set", INTERFACE, "down")
    _end(processes_of(node))


def reconnect(node):
    """As it is when the node is back."""
    _ip("-n", node, "link", "set", INTERFACE, "up")


def _end(processes):
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(processes, timeout=30)


def _ip(*arguments):
    subprocess.run(("ip", *arguments), check=True)
