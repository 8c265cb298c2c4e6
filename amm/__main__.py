"""`amm`, which is `python -m amm` as well."""

from __future__ import annotations

import sys

from amm._requirements import require


def main() -> None:
    """Run the command line, or say what it needs installed."""
    try:
        require()
    except ImportError as error:
        sys.exit(str(error))
    from amm.cli import main

    main()


if __name__ == "__main__":
    main()
