"""How a reward worker ends a run of verl.

verl 0.9.1's trainer survives a reward function that raises: the response is dropped, its group
stays smaller, and the trainer goes on, for ever in its asynchronous modes. So the worker also
leaves a note in the key-value store of the Ray cluster, under the job's id, and the trainer looks
for one whenever it polls for responses. Goes away when verl stops on errors of a reward function.
"""

import functools
import sys
from types import ModuleType
from typing import Any

from lipo_verl.rewards.errors import RewardStopped

_NAMESPACE = b"lipo_verl.rewards.stop"


def ask_to_stop(message: str) -> None:
    """Leave `message` for the trainer of this Ray job; without Ray there is nobody to tell."""
    if _in_a_job():
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(_job(), message.encode(), namespace=_NAMESPACE)


def raise_if_asked() -> None:
    """Raise RewardStopped with the message that a reward worker of this Ray job left, if any."""
    if _in_a_job():
        from ray.experimental import internal_kv

        message = internal_kv._internal_kv_get(_job(), namespace=_NAMESPACE)
        if message is not None:
            raise RewardStopped(f"A reward worker ended the run. {message.decode()}")


def watch(replay_buffer: ModuleType) -> None:
    """Make every poll for responses look for a note.

    Args:
        replay_buffer: verl.trainer.ppo.v1.replay_buffer, seen in 0.9.0 to 0.10.0.dev. Doing it
            twice is fine, and one that polls otherwise is left as it is.
    """
    cls: Any = getattr(replay_buffer, "ReplayBuffer", None)
    poll = getattr(cls, "_sync_metadata_from_transfer_queue", None)
    if poll is None or hasattr(poll, "lipo_verl_watches"):
        return

    def poll_and_look(self: Any) -> None:
        raise_if_asked()
        poll(self)

    watching: Any = functools.update_wrapper(poll_and_look, poll)
    watching.lipo_verl_watches = True
    cls._sync_metadata_from_transfer_queue = watching


def _in_a_job() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _job() -> bytes:
    import ray

    return ray.get_runtime_context().get_job_id().encode()
