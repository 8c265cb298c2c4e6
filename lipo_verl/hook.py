"""Brings LIPO into whichever process imports a trainer: verl's or EasyR1's.

`lipo_verl.pth`, which pip installs beside the packages, calls `install` at the start of
every interpreter, Ray's workers included. So this module imports nothing, and awaits one name;
`lipo_verl.import_hook` does the rest once that name is imported.
"""

import sys


def install() -> None:
    """Register LIPO as soon as `verl` is imported; calling it again changes nothing."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Notices that `verl` is looked for, and hands over to the finder of the import hooks."""

    def find_spec(self, name, path=None, target=None):
        if name != "verl":
            return None
        from lipo_verl import import_hook
        from lipo_verl.easyr1 import hook as easyr1

        if self in sys.meta_path:
            sys.meta_path.remove(self)
            easyr1.install()
            import_hook.after_import("verl", _load_plugin)
        return import_hook.finder.find_spec(name, path, target)


_finder = _Finder()


def _load_plugin(verl) -> None:
    """verl from 0.9 on has loaded the plug-in by its entry point, unless it was told not to."""
    import logging
    import os

    if not os.path.isdir(os.path.join(verl.__path__[0], "trainer", "ppo")):
        return  # EasyR1, which has its estimators elsewhere
    try:
        import lipo_verl.verl_plugin  # noqa: F401
    except Exception:
        logging.getLogger(__name__).exception("LIPO could not be loaded; verl goes on without it")
