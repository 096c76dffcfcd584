"""Whatever a library raises on a damaged or hostile file becomes one of the package's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError

_WANTS_CODE = "trust_remote_code"


@contextmanager
def own_errors(what: str, source: object) -> Iterator[None]:
    """Errors inside become an ArtefactError "Cannot {what} {source}: ..."; the package's own pass through.

    Loaders raise many kinds (OSError, ValueError, safetensors' own, struct.error, KeyError ...), and the Rust part of
    tokenizers a panic that is no Exception.

    Raises:
        ArtefactError: for anything that the libraries raised.
        UnsafeWeightsError: where a library asked whether it may run the model's own code.
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
