"""Puts ``lipo_verl.pth`` beside the packages; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

LINE = (
    r'import sys; exec("try:\n from lipo_verl.hook import install\n install()\n'
    r'except Exception:\n pass")'
    "\n"
)
"""Python runs it whenever it starts. A broken or half removed lipo_verl must not stop it."""


class BuildPy(build_py):
    """Also in editable installs, where setuptools takes nothing else of it."""

    def run(self) -> None:
        super().run()
        editable = self.get_finalized_command("install").install_lib
        Path(editable if self.editable_mode else self.build_lib, "lipo_verl.pth").write_text(LINE)


setup(cmdclass={"build_py": BuildPy})
