"""EasyR1's own entry module with LIPO in its driver and in each of its Ray workers: for a lipo_verl
that is on PYTHONPATH alone. Where pip installed it, EasyR1's own command does as well.
"""

import functools
import importlib.util
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipo_verl.config import LipoSetupError
from lipo_verl.easyr1 import hook

_SETUP_HOOK = "worker_process_setup_hook"


def run() -> None:
    """Run `verl.trainer.main`, which reads its arguments from `sys.argv`.

    Raises:
        LipoSetupError: the installed `verl` is not EasyR1.
    """
    check_framework()
    hook.install()
    _install_in_ray_workers()
    runpy.run_module("verl.trainer.main", run_name="__main__", alter_sys=True)


def check_framework() -> None:
    """Check, without importing it, that the installed `verl` is EasyR1.

    Raises:
        LipoSetupError: it isn't; says what to do.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None:
        raise LipoSetupError(
            "EasyR1 is not installed here: there is no module verl. Run this from a checkout of "
            "EasyR1, or install one (pip install -e path/to/EasyR1)."
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any((folder / "trainer" / "main_ppo.py").exists() for folder in folders):
        raise LipoSetupError(
            f"The verl installed here, {folders[0]}, is volcengine's and not EasyR1. There LIPO "
            "needs no launcher: put algorithm.adv_estimator=lipo into your usual command, "
            "python3 -m verl.trainer.main_ppo. An installed lipo_verl is there by itself, in verl "
            "0.5 and later."
        )
    if not any((folder / "trainer" / "main.py").exists() for folder in folders):
        raise LipoSetupError(
            f"The verl installed here, {spec.origin}, is not EasyR1: it has no verl.trainer.main. "
            "Run this where EasyR1 is installed."
        )


def _install_in_ray_workers() -> None:
    """Wrap `ray.init`, so that each worker process installs the hook before it loads anything.

    EasyR1 calls it with an environment of its own that nothing from outside can add to, but for
    RAY_RUNTIME_ENV_HOOK: Ray ignores that under `uv run`, and users may have set it. Seen with
    Ray 2.60; goes away when EasyR1 lets its users set the runtime environment.
    """
    import ray

    init = ray.init

    @functools.wraps(init)
    def init_with_hook(
        *args: Any, runtime_env: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        return init(*args, runtime_env=_with_setup_hook(runtime_env), **kwargs)

    ray.init = init_with_hook


def _with_setup_hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    theirs = (runtime_env or {}).get(_SETUP_HOOK)
    if theirs is not None:
        raise LipoSetupError(
            f"Ray's runtime environment has a {_SETUP_HOOK} already, {theirs}. Let it call "
            "lipo_verl.easyr1.hook.install(), or install lipo_verl with pip on every node, and "
            "start verl.trainer.main itself."
        )
    return {**(runtime_env or {}), _SETUP_HOOK: f"{hook.__name__}.{hook.install.__name__}"}
