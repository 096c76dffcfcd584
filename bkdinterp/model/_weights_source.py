"""Source of a model: a folder, a GGUF file, or a hub id, which is downloaded to a local folder first.

So every model is loaded from local files, which all pass the same checks. From a hub repository the small files are
fetched first; the checked index then decides which weights are fetched.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from bkdinterp.errors import ArtefactError
from bkdinterp.model._errors_at_load import own_errors
from bkdinterp.model._small_files import inside
from bkdinterp.model._weight_files import INDEX, SINGLE, indexed_names
from bkdinterp.values import as_path, shown

_SMALL = ["*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class Source:
    """A model's files on this disk.

    Attributes:
        given: the caller's spelling, for messages and results.
        folder: folder with config and weights; None for a GGUF file.
        gguf: the GGUF file; None for a folder.
    """

    given: str
    folder: Path | None
    gguf: Path | None


def resolve(
    source: str | Path, *, gguf_file: str | None = None, revision: str | None = None, weights: bool = True
) -> Source:
    """Find the source on this disk; a hub id is downloaded, or found in the hub's cache.

    Raises:
        ArtefactError: the source is missing, or there is no network.
        UnsafeWeightsError: a hub repository or file name leads elsewhere.
    """
    path = as_path(source, "source", error=ArtefactError)
    given = str(path if str(source).startswith("~") else source)
    if path.suffix.lower() == ".gguf":
        if not os.path.isfile(path):
            raise ArtefactError(f"No GGUF file at {path}.")
        return Source(given, None, inside(path.parent, path.name))
    if os.path.isdir(path):
        return (
            Source(given, path, None) if gguf_file is None else Source(given, None, inside(path, gguf_file))
        )
    check_hub_id(source, "an existing folder, a .gguf file or a hub id (owner/name)")
    with own_errors("load a model from", source):
        return _from_hub(given, gguf_file, revision, weights)


def source_name(source: str | Path) -> str:
    """A model's name in results: the last part of an existing path, else the hub id."""
    path = as_path(source, "source", error=ArtefactError)
    return Path(os.path.abspath(path)).name if os.path.exists(path) else str(source)


def check_hub_id(source: str | Path, choices: str) -> None:
    """Refuse a missing path before it is taken for a hub id; the hub's own message would only mention "Repo id".

    Raises:
        ArtefactError: the source can only be a path; the message lists ``choices``.
    """
    path, text = Path(source), str(source)
    if (
        not path.parts
        or path.is_absolute()
        or text.startswith((".", "~"))
        or len(path.parts) > 2
        or len(text) > 200
    ):
        raise ArtefactError(f"No folder at {shown(text, 200)}; give {choices}.")


def _from_hub(given: str, gguf_file: str | None, revision: str | None, weights: bool) -> Source:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if gguf_file is not None:
        file = Path(hf_hub_download(given, gguf_file, revision=revision))
        return Source(given, None, file.resolve(strict=True))
    try:
        folder = Path(snapshot_download(given, revision=revision, allow_patterns=_SMALL))
        if weights:
            names = indexed_names(folder) if (folder / INDEX).exists() else [SINGLE]
            snapshot_download(given, revision=revision, allow_patterns=names)
    except LocalEntryNotFoundError:  # no network, and another program has fetched only part of the repository
        folder = Path(hf_hub_download(given, "config.json", revision=revision, local_files_only=True)).parent
    return Source(given, folder, None)
