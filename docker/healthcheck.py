"""Ends with 0 if training could start here: everything imports, and verl knows LIPO."""

from importlib import import_module

PACKAGES = ("torch", "flash_attn", "ray", "vllm", "verl", "lipo_verl", "amm")


def main() -> None:
    """Raises ImportError, or SystemExit where verl has not loaded the plug-in."""
    for name in PACKAGES:
        import_module(name)
    estimators = import_module("verl.trainer.ppo.core_algos").ADV_ESTIMATOR_REGISTRY
    if "lipo" not in estimators:
        raise SystemExit(
            f"verl knows no advantage estimator lipo, only {', '.join(sorted(estimators))}. "
            "Is lipo_verl installed with pip?"
        )


if __name__ == "__main__":
    main()
