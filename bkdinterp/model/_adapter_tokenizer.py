"""The tokenizer and chat template that an adapter was trained with, if its folder has them. No forward pass.

Trainers save them beside the weights, because the training prompts were made with them. The folder is not trusted: only
plain tokenizer files are read, from a copy without anything that names other files or code.
"""

import copy
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model._small_files import read_json, read_text
from bkdinterp.model._staging import staged_tokenizer
from bkdinterp.model._template_probe import probe_templates

_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
# Files with a vocabulary, and files beside them.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def adapter_tokenizer(folder: Path, base: Any, module: Any) -> Any | None:
    """The folder's own tokenizer, or the base's with the folder's chat template; None if the folder has neither.

    Args:
        folder: the adapter's folder.
        base: the base's tokenizer.
        module: the model, for the size of its vocabulary.

    Raises:
        ArtefactError: the tokenizer cannot be read, or gives tokens different ids than the base's.
        UnsafeWeightsError: it asks to run its own code, leads out of the folder, or has a template or pattern that may
            never end.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        template = _template(folder)
        if template is None or template == getattr(base, "chat_template", None):
            return None
        own = copy.deepcopy(base)
        own.chat_template = template
        probe_templates(own, folder)
        return own
    own = _read(folder)
    probe_templates(own, folder)
    _check_ids(folder, own, base, len(module.get_input_embeddings().weight))
    return own


def _template(folder: Path) -> str | None:
    """The text of a chat template that has no vocabulary beside it."""
    config = _config(folder)
    if (folder / _TEMPLATE).is_file():
        return read_text(folder, _TEMPLATE)
    found = config.get("chat_template")
    return found if isinstance(found, str) else None


def _read(folder: Path) -> Any:
    from transformers import AutoTokenizer

    config = _config(folder)
    if "auto_map" in config:
        raise UnsafeWeightsError(
            f"The tokenizer in {folder} wants to run its own code (auto_map in {_CONFIG}). Refused; "
            "adapter_tokenizer=False keeps the base's."
        )
    with staged_tokenizer(folder) as staged:
        try:
            own = AutoTokenizer.from_pretrained(str(staged), trust_remote_code=False, local_files_only=True)
        except MemoryError:
            raise
        except Exception as error:  # readers of tokenizers raise many kinds
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtefactError(
                f"Cannot read the tokenizer in {folder}: {first} (adapter_tokenizer=False keeps the base's.)"
            ) from error
    own.name_or_path = str(folder)
    return own


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder, _CONFIG) if (folder / _CONFIG).is_file() else {}


def _check_ids(folder: Path, own: Any, base: Any, size: int) -> None:
    """Check that tokens have the same ids as in the base, and that new ones have rows in its embedding."""
    ours, theirs = own.get_vocab(), base.get_vocab()
    for token, i in ours.items():
        known = theirs.get(token)
        if known is not None and known != i:
            raise ArtefactError(
                f"The tokenizer in {folder} gives {token!r} the id {i}, the base's gives {known}: one of them belongs to "
                "another model. Load the adapter on its own base, or keep the base's tokenizer with "
                "adapter_tokenizer=False."
            )
        if i >= size:
            raise ArtefactError(
                f"The tokenizer in {folder} has the token {token!r} with id {i}, the base has {size} embeddings. Resize the "
                f"base first (module.resize_token_embeddings({len(own)})), or keep the base's tokenizer with "
                "adapter_tokenizer=False."
            )
    # The same ids for different words would pass the check above.
    taken = {i: token for token, i in theirs.items()}
    renamed = next(((t, taken[i]) for t, i in ours.items() if i in taken and taken[i] not in ours), None)
    if renamed is not None and not _reserved(renamed[1]):
        raise ArtefactError(
            f"The tokenizer in {folder} has {renamed[0]!r} where the base's has {renamed[1]!r}: one of them belongs to "
            "another model. Load the adapter on its own base, or keep the base's tokenizer with "
            "adapter_tokenizer=False."
        )


def _reserved(token: str) -> bool:
    """Whether this is a token that the base reserves for later training."""
    return any(word in token.lower() for word in ("reserved", "unused", "extra", "placeholder", "pad"))
