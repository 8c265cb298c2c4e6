"""Every test starts without errors counted."""

import pytest

from lipo_verl.rewards import scoring


@pytest.fixture(autouse=True)
def no_errors_yet():
    scoring._health.clear()
    scoring._shared_silence.cache_clear()
    scoring._comparable.cache_clear()
