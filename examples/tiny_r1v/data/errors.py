"""What stops the preparation, in words that say what to do; and what leaves out a single row."""


class DataError(ValueError):
    """The data can't be made as asked; the message names the file or dataset and the remedy."""


class Unreachable(DataError):
    """The Hub can't be reached, or broke off.

    reason: what its client said, in a line
    """

    def __init__(self, repo: str, error: Exception) -> None:
        said = f"{type(error).__name__}: {first_line(error)}"
        self.reason = f"{repo} can't be had from the Hub ({said})"
        super().__init__(
            f"{self.reason}. The same command resumes where it stopped. Without network "
            "here: --print-downloads DIR prints all downloads, for a machine that has it; then "
            "--source-dir DIR."
        )


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), "")


class Dropped(Exception):
    """One row is left out; the argument is the reason under which the manifest counts it."""
