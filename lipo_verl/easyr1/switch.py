"""``python3 -m lipo_verl.easyr1.switch on|off|status``: LIPO in EasyR1's own command.

On means one file in this Python environment's site-packages, which Python reads whenever it
starts, also in Ray's workers, and which installs :mod:`lipo_verl.easyr1.hook`. It does nothing
once lipo_verl is uninstalled.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

FILE = "lipo_verl_easyr1.pth"

LINE = (
    r'import sys; exec("try:\n from lipo_verl.easyr1.hook import install\n'
    r'except ImportError:\n pass\nelse:\n install()")'
    "\n"
)
"""Python runs a line of a .pth file that begins with ``import``."""


def switch_on(folder: Path) -> Path:
    """Writes the file into ``folder``, whole or not at all; returns it. Raises OSError."""
    path = folder / FILE
    unfinished = folder / f"{FILE}.{os.getpid()}"
    try:
        unfinished.write_text(LINE)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def switch_off(folder: Path) -> None:
    """Removes the file from ``folder`` if it is there. Raises OSError."""
    (folder / FILE).unlink(missing_ok=True)


def describe(folder: Path) -> str:
    """On or off, where, and, where on, what keeps it from working."""
    path = folder / FILE
    if not path.exists():
        return f"LIPO in EasyR1 is off in {sys.prefix}: there is no {path}"
    state = f"LIPO in EasyR1 is on in {sys.prefix}: {path}"
    started = "import sys; sys.exit('lipo_verl.easyr1.hook' not in sys.modules)"
    if subprocess.run([sys.executable, "-c", started]).returncode:
        state += (
            "\nbut Python does not find lipo_verl when it starts, so it does nothing: install "
            "lipo_verl in this environment (pip install)"
        )
    return state


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m lipo_verl.easyr1.switch",
        description="Switches LIPO in EasyR1's own command on or off, for this Python environment.",
    )
    parser.add_argument("state", choices=["on", "off", "status"])
    state = parser.parse_args().state
    folder = Path(sysconfig.get_path("purelib"))
    try:
        if state == "on":
            switch_on(folder)
        elif state == "off":
            switch_off(folder)
    except OSError as error:
        sys.exit(
            f"Cannot switch {state}: {error.strerror}: {folder / FILE}. Run this as the owner of "
            f"{sys.prefix} or in a virtual environment of your own, or leave it off and start "
            "EasyR1 with python3 -m lipo_verl.easyr1."
        )
    print(describe(folder))


if __name__ == "__main__":
    main()
