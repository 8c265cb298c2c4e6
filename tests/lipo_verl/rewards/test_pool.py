"""The process pool: calls that hang, crash or raise cost one sample and no more."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from lipo_verl.rewards.errors import (
    RewardSetupError,
    WorkerCrashed,
    WorkerRaised,
    WorkerTimeout,
)
from lipo_verl.rewards.pool import WorkerPool, shared_pool


def adders():
    """The workers of ``operator:add`` among this process's children."""
    alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in alive if "operator:add" in p.cmdline()]


@pytest.fixture
def pool():
    """A function that makes pools which are closed in the end."""
    pools = []

    def make(function, size=1, timeout=1.0):
        pools.append(WorkerPool(function, size=size, timeout=timeout))
        return pools[-1]

    yield make
    for one in pools:
        one.close()


def test_the_result_comes_back(pool):
    add = pool("operator:add")
    assert add.run(2, 3) == 5
    assert add.run("é\n", "x") == "é\nx"


def test_a_call_that_hangs_is_killed_in_time_and_the_next_is_answered(pool):
    sleep = pool("time:sleep", timeout=0.5)
    assert sleep.run(0) is None
    start = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"0\.5 s"):
        sleep.run(60)
    assert time.monotonic() - start < 2
    assert sleep.run(0) is None


def test_a_call_that_hangs_in_c_code_is_killed_as_well(pool):
    power = pool("operator:pow", timeout=0.5)
    start = time.monotonic()
    with pytest.raises(WorkerTimeout):
        power.run(3, 10**9)
    assert time.monotonic() - start < 3
    assert power.run(3, 2) == 9


def test_a_worker_that_dies_costs_its_sample_only(pool):
    die = pool("os:_exit")
    with pytest.raises(WorkerCrashed, match="code 3"):
        die.run(3)
    with pytest.raises(WorkerCrashed, match="code 4"):
        die.run(4)


def test_a_worker_that_died_while_idle_is_replaced_unnoticed(pool):
    add = pool("operator:add")
    add.run(1, 1)
    (worker,) = adders()
    worker.kill()
    psutil.wait_procs([worker], timeout=5)
    assert add.run(1, 2) == 3


def test_a_stopped_worker_is_a_timeout_however_long_the_arguments(pool):
    add = pool("operator:add", timeout=2)
    add.run("a", "b")
    (worker,) = adders()
    worker.suspend()
    start = time.monotonic()
    with pytest.raises(WorkerTimeout):
        add.run("a" * 400_000, "b")
    assert time.monotonic() - start < 4
    assert add.run("a" * 400_000, "b") == "a" * 400_000 + "b"


def test_an_exception_keeps_its_words_and_the_worker(pool):
    divide = pool("operator:truediv")
    with pytest.raises(WorkerRaised, match="ZeroDivisionError: division by zero"):
        divide.run(1, 0)
    assert divide.run(1, 2) == 0.5


def test_an_expression_that_wants_all_memory_raises(pool):
    multiply = pool("operator:mul", timeout=10)
    with pytest.raises(WorkerRaised, match="MemoryError"):
        multiply.run("x", 10**10)


def test_what_a_function_prints_does_not_disturb_the_replies(pool):
    assert pool("builtins:print").run("to standard error") is None


@pytest.mark.parametrize("function", ["no_such_module:f", "math:no_such_function"])
def test_a_function_that_cannot_be_imported_is_a_setup_error(pool, function):
    broken = pool(function)
    for _ in range(2):
        with pytest.raises(RewardSetupError, match="no_such"):
            broken.run()


def test_eight_threads_share_two_processes(pool):
    add = pool("operator:add", size=2)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda i: add.run(i, 1), range(200)))
    assert results == list(range(1, 201))
    workers = adders()
    assert len(workers) <= 2


def test_a_hanging_call_does_not_hold_up_other_threads(pool):
    sleep = pool("time:sleep", size=2, timeout=3)
    sleep.run(0)
    hanging = threading.Thread(target=lambda: pytest.raises(WorkerTimeout, sleep.run, 60))
    hanging.start()
    start = time.monotonic()
    for _ in range(5):
        sleep.run(0)
    assert time.monotonic() - start < 2.5
    hanging.join()


def test_one_pool_is_shared_per_setting():
    first = shared_pool("operator:add", size=1, timeout=1)
    assert shared_pool("operator:add", size=1, timeout=1) is first
    assert shared_pool("operator:add", size=1, timeout=2) is not first


PARENT = """
import threading
from lipo_verl.rewards.pool import WorkerPool
pool = WorkerPool("time:sleep", size=2, timeout=2)
pool.run(0)
threading.Thread(target=pool.run, args=(600,), daemon=True).start()
pool.run(0)
print("ready", flush=True)
threading.Event().wait()
"""


def test_idle_and_hanging_workers_end_when_their_parent_is_killed():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert parent.stdout.readline() == b"ready\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    parent.stdout.close()


@pytest.mark.parametrize("imports_from_here", [True, False])
def test_a_worker_imports_from_the_current_folder_only_where_this_process_does(
    pool, tmp_path, monkeypatch, imports_from_here
):
    (tmp_path / "mine.py").write_text("double = lambda number: 2 * number")
    monkeypatch.chdir(tmp_path)
    if imports_from_here:
        monkeypatch.syspath_prepend("")
        assert pool("mine:double").run(3) == 6
    else:
        with pytest.raises(RewardSetupError, match="mine"):
            pool("mine:double").run(3)
