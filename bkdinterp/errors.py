"""Every error that a user can cause; each message names the offending value and the fix.

All derive from `BkdinterpError`, so that a caller can catch the package's errors in one place. The exception is
`SweepInterrupted`, because Ctrl-C is not an error.
"""

from typing import Any


class BkdinterpError(Exception):
    """Base of all errors raised on purpose by bkdinterp."""


class SiteError(BkdinterpError, ValueError):
    """A site, head or position that does not exist in the model or the prompt."""


class SiteConflictError(SiteError):
    """Two edits claim the same activation without a stated order."""


class UnsupportedArchitectureError(BkdinterpError):
    """The module tree does not match any known architecture description."""


class PromptError(BkdinterpError, ValueError):
    """Prompts that are empty, unequal, too long, or cannot be built with this tokenizer."""


class TriggerError(PromptError):
    """A trigger that is empty, or that the tokenizer drops entirely."""


class PlanError(BkdinterpError, ValueError):
    """A set of runs that cannot be executed as asked."""


class ArtefactError(BkdinterpError):
    """A saved result or adapter that is damaged, or belongs to another model or data set."""


class DownloadError(ArtefactError):
    """A download that failed or whose hash is not the pinned one."""


class UnsafeWeightsError(BkdinterpError):
    """Weights in a format that can execute code when loaded (pickles), or a model that requires its own code."""


class RemoteError(BkdinterpError):
    """A server cannot be reached, refuses or fails; or the work cannot run remotely, or can run only there."""


class JobsPending(RemoteError):
    """Not an error: requests are at the server, and their answers are not there yet. Run the same again to collect them."""


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a plan; carries the results finished so far.

    It is a KeyboardInterrupt and not a BkdinterpError, because ``except Exception`` must not swallow Ctrl-C.

    Attributes:
        results: one result per run, as ``execute`` would return them; scores not yet computed are NaN.
        done: number of finished chunks.
        total: number of chunks in the plan.
        partial: the method's own result from the finished chunks, or None if there are too few. An attribution gives
            the scores of all units on the finished prompts. If no prompt is finished (a sweep goes layer by layer), it
            gives the scores of the first units (``n_scored`` of them) on the prompts that they have in common.
    """

    def __init__(self, results: tuple[Any, ...] = (), *, done: int = 0, total: int = 0) -> None:
        super().__init__(results, done, total)
        self.results = results
        self.done = done
        self.total = total
        self.partial: Any | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # __init__ takes keyword arguments
        return _interrupted, (self.results, self.done, self.total, self.partial)

    def __str__(self) -> str:
        text = f"Interrupted after {self.done} of {self.total} chunks; the finished results are in .results"
        if self.partial is not None:
            return f"{text} and .partial."
        return f"{text}; too few for a result of the method (.partial is None)."


def _interrupted(results: tuple[Any, ...], done: int, total: int, partial: Any) -> SweepInterrupted:
    """Rebuild a pickled interrupt, e.g. from another process."""
    made = SweepInterrupted(results, done=done, total=total)
    made.partial = partial
    return made
