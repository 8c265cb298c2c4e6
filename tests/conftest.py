"""For all tests: SIGINT as in a terminal.

A shell that starts a command in the background has it, and all that it starts, ignore SIGINT.
"""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
