"""`python -m amm`."""

from amm.cli import main

main()
