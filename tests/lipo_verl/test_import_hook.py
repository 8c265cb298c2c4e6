"""Callbacks after an import: when, how often, and what other imports see of it."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
import threading

import pytest

from lipo_verl.import_hook import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that is not imported yet; returns its name."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(source, name=None):
        name = name or f"hooked_{tmp_path.name.replace('-', '_')}_{len(names)}"
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_the_callback_sees_the_executed_module_before_the_importer_does(module):
    name = module("value = 1")
    after_import(name, lambda m: setattr(m, "value", m.value + 1))
    assert name not in sys.modules
    assert importlib.import_module(name).value == 2


def test_a_name_taken_from_the_module_is_the_patched_one(module):
    name = module("value = 1")
    user = module(f"from {name} import value")
    after_import(name, lambda m: setattr(m, "value", 2))
    assert importlib.import_module(user).value == 2


def test_each_callback_runs_once_and_in_order(module):
    name, calls = module(""), []
    after_import(name, lambda m: calls.append("first"))
    after_import(name, lambda m: calls.append("second"))
    importlib.reload(importlib.import_module(name))
    assert calls == ["first", "second"]


def test_an_imported_module_gets_its_callback_at_once(module):
    name, calls = module("value = 1"), []
    imported = importlib.import_module(name)
    after_import(name, calls.append)
    assert calls == [imported]


def test_a_submodule_is_awaited_without_importing_its_package(module):
    package = module("", "awaited_package.__init__").removesuffix(".__init__")
    name, calls = module("", f"{package}.part"), []
    after_import(name, calls.append)
    assert package not in sys.modules
    importlib.import_module(name)
    assert [m.__name__ for m in calls] == [name]
    del sys.modules[package]


def test_a_failing_callback_fails_the_import_and_runs_again_at_the_next(module):
    name, calls = module("value = 1"), []

    def fail_once(m):
        calls.append(m)
        if len(calls) == 1:
            raise RuntimeError("not yet")

    after_import(name, fail_once)
    with pytest.raises(RuntimeError, match="not yet"):
        importlib.import_module(name)
    assert name not in sys.modules
    assert importlib.import_module(name) is calls[1]


def test_a_module_that_fails_keeps_its_callback_for_the_next_attempt(module, tmp_path):
    name, calls = module("raise OSError('broken')"), []
    after_import(name, calls.append)
    with pytest.raises(OSError, match="broken"):
        importlib.import_module(name)
    assert calls == []
    module("mended = True", name)
    assert importlib.import_module(name).mended
    assert len(calls) == 1


def test_a_missing_module_is_missing_as_usual(module):
    after_import("no_such_module_anywhere", print)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")


def test_the_module_looks_as_if_nothing_had_awaited_it(module):
    plain, hooked = module("def f(): ..."), module("def f(): ...")
    after_import(hooked, lambda m: None)
    plain, hooked = importlib.import_module(plain), importlib.import_module(hooked)
    assert type(hooked.__loader__) is type(plain.__loader__)
    assert hooked.__spec__.loader is hooked.__loader__
    assert inspect.getsource(hooked.f) == inspect.getsource(plain.f)


def test_looking_for_the_module_neither_imports_it_nor_uses_the_callback_up(module):
    name, calls = module("value = 1"), []
    after_import(name, calls.append)
    assert importlib.util.find_spec(name).loader.get_source(name) == "value = 1"
    assert calls == []
    importlib.import_module(name)
    assert len(calls) == 1


def test_two_hooks_of_this_kind_in_one_process_both_run(module):
    """Another copy of the finder, before or behind, as other tools install theirs."""
    name, calls = module("value = 1"), []
    spec = importlib.util.find_spec("lipo_verl.import_hook")
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    after_import(name, lambda m: calls.append("ours"))
    other.after_import(name, lambda m: calls.append("theirs"))
    assert importlib.import_module(name).value == 1
    assert sorted(calls) == ["ours", "theirs"]


def test_threads_that_import_at_the_same_time_share_one_patched_module(module):
    name = module("import time; time.sleep(0.2); value = 1")
    seen, calls = [], []

    def patch(m):
        calls.append(m)
        m.value = 2

    after_import(name, patch)
    threads = [
        threading.Thread(target=lambda: seen.append(importlib.import_module(name).value))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2] * 4
    assert len(calls) == 1


def test_a_callback_registered_late_waits_for_a_thread_that_is_importing(module):
    name, values = module("import time; value = 0; time.sleep(0.5); value = 1"), []
    thread = threading.Thread(target=importlib.import_module, args=(name,))
    thread.start()
    while name not in sys.modules:
        pass
    after_import(name, lambda m: values.append(m.value))
    thread.join()
    assert values == [1]


def test_it_needs_no_module_that_the_interpreter_does_not_start_with():
    code = (
        "import sys; before = set(sys.modules); import lipo_verl.import_hook; "
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True
    )
    assert set(loaded.stdout.split()) <= {"__future__", "lipo_verl", "lipo_verl.import_hook"}
