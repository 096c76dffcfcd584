"""Turns errors that libraries raise on damaged or hostile files into the package's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError

_WANTS_CODE = "trust_remote_code"


@contextmanager
def own_errors(what: str, source: object) -> Iterator[None]:
    """Context in which any error becomes an ArtefactError "Cannot {what} {source}: ..."; the package's own pass through.

    Loaders raise many kinds of error (OSError, ValueError, safetensors' own, struct.error, KeyError ...), and the Rust part
    of tokenizers raises a panic that is not an Exception.

    Raises:
        ArtefactError: a library raised any error.
        UnsafeWeightsError: a library asked whether it may run the model's own code.
    """
    try:
        yield
    except (BkdinterpError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if _WANTS_CODE in str(error):
            raise UnsafeWeightsError(
                f"{source} wants to run its own code to load. Refused; pass trust_remote_code=True only if you trust it."
            ) from error
        raise ArtefactError(f"Cannot {what} {str(source)!r}: {text}") from error
