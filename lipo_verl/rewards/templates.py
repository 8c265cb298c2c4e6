"""Whether a response keeps the form that its prompt asked for. [ours]"""

import re

from lipo_verl.rewards import extract

_THINK = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<rest>.*)", re.S)


def think_boxed(response: str) -> bool:
    r"""`<think>…</think>` first, then text with a `\boxed{}` that is not empty."""
    rest = _after_thought(response)
    return rest is not None and bool(extract.boxed(rest))


def think_answer(response: str) -> bool:
    """`<think>…</think><answer>…</answer>` and nothing else but white space."""
    rest = _after_thought(response)
    if rest is None:
        return False
    rest = rest.strip()
    answer = rest.removeprefix("<answer>").removesuffix("</answer>")
    return (
        len(answer) == len(rest) - len("<answer></answer>")
        and answer.strip() != ""
        and "<answer>" not in answer
        and "</answer>" not in answer
    )


TEMPLATES = {"think_boxed": think_boxed, "think_answer": think_answer}


def score(response: str, template: str) -> float:
    """1.0 where the response keeps the template, a key of TEMPLATES, else 0.0."""
    return float(TEMPLATES[template](response))


def _after_thought(response: str) -> str | None:
    """What follows the one thought that opens the response, or None."""
    match = _THINK.fullmatch(response)
    if match is None or "<think>" in match["thought"] or not match["thought"].strip():
        return None
    return None if re.search("</?think>", match["rest"]) else match["rest"]
