"""The end of a run."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lipo_verl.cpu.launch import ARGUMENTS
from lipo_verl.processes import end_processes

DETACHING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start():
    """A function that starts Python code and returns it with its first word; ended afterwards."""
    started, pids = [], []

    def run(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        word = process.stdout.readline().strip()
        if word.isdigit():
            pids.append(int(word))
        return process, word

    yield run
    for process in started:
        process.kill()
    for pid in filter(running, pids):
        os.kill(pid, signal.SIGKILL)
    for process in started:
        process.communicate()


def test_detached_grandchild_is_ended_with_its_parent(start):
    process, grandchild = start(DETACHING)
    tree = psutil.Process(process.pid)
    end_processes({tree, *tree.children(recursive=True)}, patience=2)
    assert not running(process.pid)
    assert not running(int(grandchild))


def test_process_that_ignores_sigterm_is_killed_after_the_patience(start):
    process, _ = start(STUBBORN)
    began = time.monotonic()
    end_processes({psutil.Process(process.pid)}, patience=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert not running(process.pid)


def test_processes_already_gone_and_bystanders_are_no_matter(start):
    gone, bystander = start("print('x')")[0], start(STUBBORN)[0]
    handle = psutil.Process(gone.pid)
    gone.wait(10)
    end_processes({handle}, patience=0.5)
    end_processes(set())
    assert running(bystander.pid)


TRAINER = """#!/bin/sh
echo "$@" > {folder}/arguments
echo $VERL_PLATFORM $EXTRA > {folder}/environment
(setsid sleep 600 & echo $! > {folder}/detached)
echo $$
{rest}
"""
ORPHANING = """
import subprocess, time
from lipo_verl.processes import leave_nothing
with leave_nothing():
    pass
orphan = ["sh", "-c", "sleep 600 > /dev/null & echo $!"]
print(subprocess.run(orphan, stdout=subprocess.PIPE, text=True).stdout, flush=True)
time.sleep(600)
"""
LAUNCH = """
import sys
from lipo_verl.cpu import launch
sys.executable = sys.argv[1]
code = launch.run_main_ppo(["trainer.nnodes=1"], environment={"EXTRA": "yes"})
sys.exit(code)
"""


@pytest.fixture
def trainer(tmp_path):
    """A function that writes a stand-in for Python, which detaches a process as Ray does."""

    def write(rest):
        script = tmp_path / "python"
        script.write_text(TRAINER.format(folder=tmp_path, rest=rest))
        script.chmod(0o755)
        return str(script)

    yield write
    pid = int((tmp_path / "detached").read_text())
    if running(pid):
        os.kill(pid, signal.SIGKILL)


def test_run_hands_on_arguments_and_exit_code_and_leaves_nothing(start, trainer, tmp_path):
    process, _ = start(LAUNCH, trainer("exit 3"))
    assert process.wait(30) == 3
    assert not running(int((tmp_path / "detached").read_text()))
    expected = ["-m", "verl.trainer.main_ppo", *ARGUMENTS, "trainer.nnodes=1"]
    assert (tmp_path / "arguments").read_text().split() == expected
    assert (tmp_path / "environment").read_text().split() == ["cpu", "yes"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_leaves_nothing(start, trainer, tmp_path, number):
    process, pid = start(LAUNCH, trainer("sleep 600"))
    detached = int((tmp_path / "detached").read_text())
    assert running(int(pid)) and running(detached)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not running(int(pid)) and not running(detached)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_more_interruptions_do_not_cut_the_ending_short(start, trainer, tmp_path, number):
    """As from a batch system that signals a whole process group, or from an impatient user."""
    process, pid = start(LAUNCH, trainer("trap '' TERM; while true; do sleep 1; done"))
    detached = int((tmp_path / "detached").read_text())
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.returncode not in (None, 0)
    assert not running(int(pid)) and not running(detached)


def test_processes_orphaned_after_the_run_are_not_adopted(start):
    process, orphan = start(ORPHANING)
    assert psutil.Process(int(orphan)).ppid() != process.pid
