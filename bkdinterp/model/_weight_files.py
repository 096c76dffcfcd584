"""Finds the files with a folder's weights: only safetensors inside the folder, whatever its index says."""

from pathlib import Path

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model._safetensors_header import Stored, read_header
from bkdinterp.model._small_files import inside, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(folder: Path) -> tuple[dict[str, Path], dict[str, Stored]]:
    """The files of weights (plain name -> real path), and all their tensors by name.

    Raises:
        UnsafeWeightsError: only pickled weights, or an index that names a pickle or leads out of the folder.
        ArtefactError: weights are missing or damaged, or index and files do not agree.
    """
    if (folder / SINGLE).is_symlink() or (folder / SINGLE).exists():
        names, listed = [SINGLE], None
    elif (folder / INDEX).is_symlink() or (folder / INDEX).exists():
        listed = _weight_map(folder)
        names = sorted(set(listed.values()))
    else:
        raise _nothing(folder)
    files = {name: inside(folder, name) for name in names}
    stored: dict[str, Stored] = {}
    for real in files.values():
        held = read_header(real)
        if twice := sorted(stored.keys() & held.keys()):
            raise ArtefactError(f"{folder} holds {twice[0]!r} in two files; delete the one that is wrong.")
        stored |= held
    if listed is not None and (loose := sorted(listed.keys() ^ stored.keys())):
        raise ArtefactError(
            f"{INDEX} in {folder} and its files do not list the same tensors: {len(loose)} are only in one, e.g. "
            f"{loose[0][:200]!r}. The folder is incomplete or belongs to another model."
        )
    if extra := sorted(p.name for p in folder.glob("model-*-of-*.safetensors") if p.name not in files):
        raise ArtefactError(f"{folder} holds weights that its index does not name: {extra[0]}. Refused.")
    return {Path(name).name: real for name, real in files.items()}, stored


def indexed_names(folder: Path) -> list[str]:
    """The names of weight files in the folder's index.

    Raises:
        ArtefactError, UnsafeWeightsError: as `weight_files`.
    """
    return sorted(set(_weight_map(folder).values()))


def _weight_map(folder: Path) -> dict[str, str]:
    listed = read_json(folder, INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ArtefactError(f"{folder / INDEX} has no weight_map.")
    for name in set(map(str, listed.values())):
        if not name.endswith(".safetensors"):
            raise UnsafeWeightsError(
                f"{INDEX} in {folder} names {name[:200]!r}, which is not a safetensors file and could run code when loaded. "
                "Refused; convert the weights to safetensors."
            )
        if Path(name).name != name:
            raise UnsafeWeightsError(
                f"{INDEX} in {folder} names {name[:200]!r}; weights are only read from the folder itself. Refused."
            )
    return {str(key): str(value) for key, value in listed.items()}


def _nothing(folder: Path) -> ArtefactError | UnsafeWeightsError:
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    if pickles and not others:
        return UnsafeWeightsError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when loaded; convert them to safetensors."
        )
    if others:
        return ArtefactError(
            f"{folder} holds neither {SINGLE} nor {INDEX}, only {others[0]}; rename or index it."
        )
    return ArtefactError(f"{folder} holds no .safetensors weights.")
