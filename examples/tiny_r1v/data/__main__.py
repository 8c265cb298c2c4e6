"""``python -m examples.tiny_r1v.data math|structure|ocr|mixture --output DIR``."""

import sys

from examples.tiny_r1v.data.cli import main

sys.exit(main(sys.argv[1:]))
