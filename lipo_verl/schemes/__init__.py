"""Length schemes, one file each: rewards, lengths and correctness in, shaped rewards out."""

from lipo_verl.schemes import (  # noqa: F401  importing one registers it
    alp,
    arora,
    gr3,
    kimi,
    laser,
    laser_d,
    lipo,
    overlong,
    shorterbetter,
    truncation,
)
from lipo_verl.schemes.registry import (
    Responses,
    Scheme,
    Settings,
    State,
    get_scheme,
    register,
    schemes,
)

__all__ = [
    "Responses",
    "Scheme",
    "Settings",
    "State",
    "get_scheme",
    "register",
    "schemes",
]
