"""Brings LIPO into whichever process imports EasyR1's trainer.

Two ways lead here: `lipo_verl.hook`, in every interpreter of an environment that lipo_verl is
installed in, and `lipo_verl.easyr1.launch`, in the driver and in each of Ray's workers. Until
EasyR1 is imported it costs three registered callbacks.
"""

from __future__ import annotations

import sys

from lipo_verl.import_hook import after_import

TYPE_CHECKING = False  # importing typing would take longer than everything else here
if TYPE_CHECKING:
    from types import ModuleType

_installed = False


def install() -> None:
    """Patch EasyR1's trainer as soon as it is imported; calling it again changes nothing.

    Raises:
        LipoSetupError: EasyR1's trainer is imported already: names that its modules took from each
            other would stay unpatched.
    """
    global _installed
    if _installed:
        return
    config = sys.modules.get("verl.trainer.config")
    if "verl.trainer.core_algos" in sys.modules or config is not None and _is_easyr1(config):
        from lipo_verl.config import LipoSetupError

        raise LipoSetupError(
            "EasyR1's verl.trainer is imported already. Call lipo_verl.easyr1.hook.install() "
            "before that: at the top of the script."
        )
    after_import("verl.trainer.core_algos", _core_algos)
    after_import("verl.trainer.config", _config)
    after_import("verl.trainer.ray_trainer", _ray_trainer)
    _installed = True


def _core_algos(module: ModuleType) -> None:
    from lipo_verl.easyr1 import adapter

    adapter.patch_core_algos(module)


def _config(module: ModuleType) -> None:
    if _is_easyr1(module):
        from lipo_verl.easyr1 import adapter

        adapter.patch_config(module)


def _ray_trainer(module: ModuleType) -> None:
    from lipo_verl.easyr1 import adapter

    adapter.patch_ray_trainer(module)


def _is_easyr1(config: ModuleType) -> bool:
    """volcengine's verl has a verl.trainer.config as well, but no PPOConfig in it."""
    return hasattr(config, "PPOConfig") and hasattr(config, "AlgorithmConfig")
