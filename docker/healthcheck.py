"""Ends with 0 if training could start here: everything imports, and verl knows LIPO.

python docker/healthcheck.py [PACKAGE ...]   further packages to import, such as flash_attn
"""

import sys
from importlib import import_module

PACKAGES = ("torch", "ray", "vllm", "verl", "lipo_verl", "amm")


def main(*more: str) -> None:
    """Raises ImportError, or SystemExit where verl has not loaded the plug-in."""
    for name in (*PACKAGES, *more):
        import_module(name)
    estimators = import_module("verl.trainer.ppo.core_algos").ADV_ESTIMATOR_REGISTRY
    if "lipo" not in estimators:
        raise SystemExit(
            f"verl knows no advantage estimator lipo, only {', '.join(sorted(estimators))}. "
            "Is lipo_verl installed with pip?"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
