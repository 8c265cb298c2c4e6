"""The ceiling of memory, kept by a merge of files that are larger."""

import subprocess
import sys

import pytest
import torch
from pico_models import save_folder

pytestmark = pytest.mark.slow

CEILING = 100_000_000

MERGE = """
import re, sys, threading, torch
torch.set_num_threads(2)
import amm.run

def resident(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], resident("VmRSS"))
        peak[1] = max(peak[1], resident("RssAnon"))

amm.merge(*eval(sys.argv[4]), output=sys.argv[2] + "-warm", **eval(sys.argv[3]))
done, before = threading.Event(), (resident("VmRSS"), resident("RssAnon"))
peak = list(before)
watcher = threading.Thread(target=watch)
watcher.start()
amm.merge(*eval(sys.argv[1]), output=sys.argv[2], **eval(sys.argv[3]))
done.set()
watcher.join()
print(peak[0] - before[0], peak[1] - before[1])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base and two experts of 160 MB each, two fifths of it in one tensor."""
    folder = tmp_path_factory.mktemp("large")
    weights = {"model.embed_tokens.weight": torch.randn(32_000, 1000).bfloat16()}
    for i in range(24):
        weights[f"model.layers.{i}.mlp.up_proj.weight"] = torch.randn(2000, 1000).bfloat16()
    base = save_folder(folder / "base", weights)
    for name in ("a", "b"):
        save_folder(folder / name, {key: weight * 1.01 for key, weight in weights.items()})
    return str(base), [str(folder / "a"), str(folder / "b")]


@pytest.mark.parametrize("method", ["mean", "ties"])
def test_the_resident_set_grows_by_less_than_the_ceiling(large, pico, tmp_path, method):
    settings = {"method": method, "max_memory": CEILING, "hash_inputs": False}
    base, experts = pico
    small = str(base), list(map(str, experts))
    arguments = [repr(large), str(tmp_path / "out"), repr(settings), repr(small)]
    done = subprocess.run([sys.executable, "-c", MERGE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, anonymous = map(int, done.stdout.split())
    assert 0 < anonymous <= total < CEILING


def test_freed_pieces_of_the_heap_are_given_back():
    source = """
import ctypes, re, torch
ctypes.CDLL(None).mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: all that follows is of the heap
from amm.engines.pages import release_freed

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

before = anonymous()
tensors = [torch.ones(2**18) for _ in range(200)]
kept = tensors[9::10]
del tensors
torn = anonymous() - before
release_freed()
print(torn, anonymous() - before)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torn, left = map(int, done.stdout.split())
    assert torn > 180e6
    assert left < 30e6
