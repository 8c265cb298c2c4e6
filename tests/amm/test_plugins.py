"""Methods of other packages, found by entry point: the documentation's example, broken ones."""

import re
from pathlib import Path

import pytest
import torch

from amm.errors import InputError
from amm.methods import get_method, method_names, registry

DOCS = Path(__file__).parents[2] / "docs" / "extend.md"


@pytest.fixture
def install(distribution, monkeypatch):
    """Install another package's method."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    registry._load_entry_points.cache_clear()
    yield distribution
    registry._load_entry_points.cache_clear()


def example(language):
    return re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)[1]


def test_the_example_of_the_documentation_works(install):
    (entry_points,) = re.findall(r'entry-points\."(.*?)"\]\n(\w+) = "(\w+)"', example("toml"))
    group, name, module = entry_points
    install(module, example("python"), f"[{group}]\n{name} = {module}\n")
    method = get_method(name)
    vectors = torch.tensor([[[1.0, -5.0]], [[2.0, 7.0]], [[9.0, 0.0]]])
    assert method.function(vectors, method.settings(scale=2.0)).tolist() == [[4.0, 0.0]]
    assert name in method_names()


def test_a_known_name_loads_no_other_package(install):
    install("loud", "raise RuntimeError", "[amm.methods]\nloud = loud\n")
    assert get_method("amm").name == "amm"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        (
            "from amm.methods import register\nfrom amm.settings import Settings\n"
            "@register('amm', settings=Settings, tensors='all')\ndef mine(t, s): return t[0]",
            "InputError: the merge method name 'amm' belongs to amm.methods.amm.amm already",
        ),
    ],
)
def test_a_broken_package_is_a_warning_that_names_it_and_no_crash(install, source, reason):
    install("broken", source, "[amm.methods]\nshiny = broken\n")
    with pytest.warns(RuntimeWarning, match="'shiny' \\(broken\\)") as warned:
        assert "amm" in method_names()
    assert reason in str(warned[0].message)
    with pytest.raises(InputError, match="unknown merge method 'shiny'"):
        get_method("shiny")
