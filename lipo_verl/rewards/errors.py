"""What can go wrong with a reward, and the words for it."""


class RewardSetupError(ValueError):
    """The reward cannot work as it is configured or installed; the message says what to set."""


class TruthError(ValueError):
    """The ground truth of a sample cannot be scored against; the message says why."""


class RewardErrorRate(RuntimeError):
    """So many samples could not be scored that the training signal is not to be trusted."""


class RewardStopped(RuntimeError):
    """A reward worker ended the run, raised in the trainer; the message says why."""


class WorkerFailed(RuntimeError):
    """A sample could not be scored in a worker process."""


class WorkerTimeout(WorkerFailed):
    """The worker took longer than the timeout and was killed."""


class WorkerCrashed(WorkerFailed):
    """The worker process ended in the middle of a sample."""


class WorkerRaised(WorkerFailed):
    """The function raised an exception in the worker; the message is that exception."""
