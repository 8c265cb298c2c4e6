"""Rows of the training schema."""

import io

from PIL import Image


def picture(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def question(number: int, **changes) -> dict:
    """A row of the training schema: the truth is the row's number."""
    return {
        "data_source": "mine/exact",
        "prompt": [{"role": "user", "content": f"<image>What is {number}?"}],
        "images": [{"bytes": picture(number), "path": None}],
        "reward_model": {"style": "rule", "ground_truth": str(number)},
        "extra_info": {"index": number, "id": f"q{number}"},
    } | changes
