"""Every error that a user can cause, each naming the offending value and the fix.

All derive from `BkdinterpError`, so that a caller can catch the package's errors in one place.
"""


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
    """A trigger that is empty, or that leaves no token behind."""


class PlanError(BkdinterpError, ValueError):
    """A set of runs that cannot be executed as asked."""


class ArtefactError(BkdinterpError):
    """A saved result or adapter that is damaged, or belongs to another model or data set."""


class DownloadError(ArtefactError):
    """A download that failed or whose hash is not the pinned one."""


class UnsafeWeightsError(BkdinterpError):
    """Weights in a format that can execute code when loaded (pickles), or a model that asks to run its own code."""


class RemoteError(BkdinterpError):
    """A server that cannot be reached, refuses a request or fails, or work that cannot be sent to one."""
