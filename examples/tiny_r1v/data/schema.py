r"""The rows that verl and EasyR1 read, and the words around a question.

verl takes ``prompt``, ``images``, ``data_source``, ``reward_model`` and ``extra_info``; EasyR1
takes ``problem``, ``images``, and ``answer`` or ``reward_model``. One file has all of them.

The form that the prompt asks for is ``lipo_verl.rewards``' ``template=think_boxed``, which is also
what the same first authors' R1-ShareVL asks for [V]; the wording is ours [ours].
"""

from typing import Any

import pyarrow as pa

from lipo_verl.rewards.scoring import RewardConfig, score_response

PROMPT_SUFFIX = (
    "First think it through inside <think> </think>. Then give the final answer, and nothing but "
    r"the answer, inside \boxed{}."
)

EXPERTS = ("math", "structure", "ocr")

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("images", pa.list_(_PICTURE)),
        ("ability", pa.string()),
        (
            "reward_model",
            pa.struct(
                [("style", pa.string()), ("ground_truth", pa.string()), ("task", pa.string())]
            ),
        ),
        (
            "extra_info",
            pa.struct(
                [
                    ("split", pa.string()),
                    ("index", pa.int64()),
                    ("source", pa.string()),
                    ("id", pa.string()),
                    ("reward_task", pa.string()),
                ]
            ),
        ),
    ]
)
"""The task by which ``lipo_verl.rewards`` scores a row stands where each framework's reward sees
it: in ``extra_info.reward_task`` for verl, and in ``reward_model.task`` for EasyR1, where the
recipe names ``reward_model`` as ``answer_key`` (config/easyr1/reward.py).
"""


def make_row(
    expert: str, source: str, id: str, question: str, answer: str, task: str, picture: bytes
) -> dict[str, Any]:
    """A row of SCHEMA; split and index are given when the file is put together."""
    problem = f"<image>{question}\n{PROMPT_SUFFIX}"
    return {
        "data_source": f"tiny_r1v/{expert}",
        "prompt": [{"role": "user", "content": problem}],
        "problem": problem,
        "answer": answer,
        "images": [{"bytes": picture, "path": None}],
        "ability": expert,
        "reward_model": {"style": "rule", "ground_truth": answer, "task": task},
        "extra_info": {
            "split": None,
            "index": None,
            "source": source,
            "id": id,
            "reward_task": task,
        },
    }


_REWARD = RewardConfig(template="think_boxed", error_limit=1)


def earns_the_reward(answer: str, task: str) -> bool:
    """Whether a response that gives exactly ``answer``, in the form asked for, scores 1."""
    response = f"<think>known</think>\\boxed{{{answer}}}"
    return score_response(response, answer, task, _REWARD)["score"] == 1
