"""For the tests of both reports: the page as it is, in a folder of its own."""

import pytest

from examples.evidence import report
from examples.evidence.merging import report as merging


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A copy of the page, which the reports write instead."""
    path = tmp_path / "evidence.md"
    path.write_text(report.PAGE.read_text())
    for module in (report, merging):
        monkeypatch.setattr(module, "PAGE", path)
    monkeypatch.setattr(report, "PLOTS", tmp_path / "evidence")
    return path


@pytest.fixture
def make(page, monkeypatch):
    """A function that lets one of the reports write the page from a folder of results."""

    def run(module, folder):
        monkeypatch.setattr("sys.argv", ["report", "--results", str(folder)])
        module.main()

    return run
