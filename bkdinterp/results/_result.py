"""The base of every result: a frozen value with an origin that can be saved, tabulated and plotted.

A subclass is ``@dataclass(frozen=True, eq=False)`` with ``fingerprint`` first, followed by its raw measurements. Mean,
interval and top-k are methods that compute from these. No forward pass.
"""

import importlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.results._caption import model_words
from bkdinterp.results._codec import decode, encode
from bkdinterp.results._fields import check_fields
from bkdinterp.results._files import disk
from bkdinterp.results._fingerprint import Fingerprint
from bkdinterp.results._folder import JSON, read_header, read_tensors, write_folder
from bkdinterp.results._html import html_table
from bkdinterp.results._tidy import tidy_frame
from bkdinterp.values import as_path

# Folders that define results, in the order in which they are tried; names of ours, never a file's.
_HOMES = ("methods", "doctor", "organisms", "detection")

ResultT = TypeVar("ResultT", bound="Result")

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """Base class of everything that a method returns.

    A subclass implements ``to_frame`` and ``plot``, may override ``describe``, and increases ``schema_version`` when its
    fields change.

    Attributes:
        fingerprint: the result's origin.
    """

    schema_version: ClassVar[int] = 1
    row_name: ClassVar[tuple[str, ...]] = ()
    """The columns of ``to_frame`` that name a row in `tidy`; empty for all columns of text."""

    fingerprint: Fingerprint

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Otherwise @dataclass would replace the inherited repr by its own, which prints whole tensors.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    @abstractmethod
    def to_frame(self) -> "pandas.DataFrame":
        """The result as a long table, one row per measurement."""

    def tidy(self) -> "pandas.DataFrame":
        """The numbers of `to_frame` in one form for every result: ``pandas.concat([a.tidy(), b.tidy()])`` is one table.

        One row per number, with the columns model (with adapter and hash), name (the unit: head, site, layer, condition
        ...), metric, estimate, low, high (NaN without an interval) and n (missing where a number is not over examples).
        """
        score = getattr(self, "metric", getattr(self, "by", None))
        n = getattr(self, "n", None)
        return tidy_frame(
            self.to_frame(),
            model_words(self.fingerprint),
            self.row_name,
            score if isinstance(score, str) else None,
            n if isinstance(n, int) else None,
        )

    @abstractmethod
    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: Any = None
    ) -> "matplotlib.figure.Figure":
        """The result as a figure; raises BkdinterpError if matplotlib is missing.

        Args:
            title: replaces the default title, which names the model and its adapter.
            ax: matplotlib axes to draw into, or a list if the figure has several panels; None makes a figure.
            limit: fixes the scale, to compare figures. For curves and bars it is (low, high), the ends of the value axis;
                for maps and points one number, the distance from the centre (0, or chance) to the ends of the scale; for
                probabilities the upper end.
        """

    def _validate(self) -> None:
        """Check what types and shapes cannot express, e.g. that two mappings have the same keys; called after loading.

        Raises:
            ArtefactError: the fields contradict each other.
        """
        return

    def describe(self) -> str:
        """One line for the repr, with tensor shapes, lengths and the model; subclasses may override it."""
        parts = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "fingerprint":
                continue
            if isinstance(value, Tensor):
                parts.append(f"{f.name}[{' x '.join(map(str, value.shape))}]")
            elif isinstance(value, tuple | list | dict):
                parts.append(f"{len(value)} {f.name}")
            elif value is not None:
                text = str(value)
                parts.append(f"{f.name}={text if len(text) <= 40 else text[:37] + '...'}")
        return ", ".join([*parts, f"model={self.fingerprint.label}"])

    def __repr__(self) -> str:
        return cut(f"{type(self).__name__}({self.describe()})", LIMIT)

    def _repr_html_(self) -> str:
        """HTML for notebooks: the repr as a title and the first rows of the table, all escaped."""
        return html_table(repr(self), self.to_frame())

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json`` and ``tensors.safetensors`` into ``folder``, both or neither.

        An earlier result in ``folder`` is replaced; other files in it are kept.

        Raises:
            ArtefactError: ``folder`` is a file, or has content but no result; a field cannot be saved; or the disk is full
                or not writable (an earlier result is then kept).
        """
        target = as_path(folder, "folder", error=ArtefactError)
        content, tensors = self._to_json()
        header = {"class": type(self).__name__, "schema_version": self.schema_version, "fields": content}
        with disk(
            target
        ):  # "." and ".." have no name for a sibling folder; not Path.resolve(), which raises its own error
            resolved = Path(
                os.path.realpath(target)
            )  # for a loop of links; the operating system reports that when writing
        write_folder(resolved, header, tensors)
        return target

    @classmethod
    def load(cls, folder: str | Path, *, expect: Fingerprint | None = None, strict: bool = True) -> Self:
        """Load a saved result onto the CPU; ``Result.load`` finds the class, a subclass loads only its own results.

        Args:
            folder: the result's folder.
            expect: ``model.fingerprint()`` of the model that the result will be used with; data, seed and versions may
                differ.
            strict: raise if model, revision, adapter, dtype or template differ from ``expect``.

        Raises:
            ArtefactError: a file is missing or damaged; the class, schema version or model is another one; or the types,
                shapes or lengths of the fields do not fit the class.
        """
        path = as_path(folder, "folder", error=ArtefactError)
        header = read_header(path)
        saved = cls._saved_class(header, path / JSON)
        if header.get("schema_version") != saved.schema_version:
            raise ArtefactError(
                f"{path / JSON} has schema version {header.get('schema_version')!r} of {saved.__name__}, but "
                f"this bkdinterp reads {saved.schema_version}; compute the result again, or load it with the "
                "version that wrote it."
            )
        tensors = read_tensors(path, header)
        try:
            result = saved._from_json(header["fields"], tensors)
            check_fields(result)
            result._validate()
            repr(result)  # its content must at least be printable
        except ArtefactError as error:
            raise ArtefactError(f"{path / JSON}: {error}") from error
        # Any complaint of a constructor about the content means that the file is damaged.
        except Exception as error:
            raise ArtefactError(
                f"{path / JSON} does not fit {saved.__name__} ({error!r}); save the result again."
            ) from error
        if expect is not None:
            result.check(expect, strict, ignore=("data", "seed", "versions"))
        return result

    def check(
        self, fingerprint: Fingerprint, strict: bool = True, *, ignore: Collection[str] = ()
    ) -> dict[str, tuple[Any, Any]]:
        """Compare this result's origin with ``fingerprint``; returns field -> (saved, here) for every difference.

        Args:
            fingerprint: fingerprint of what the result will be used with.
            strict: raise if something differs.
            ignore: fields that may differ, e.g. ``("data", "seed", "versions")``; ``"versions"`` means all.

        Raises:
            ArtefactError: something differs and ``strict`` is set.
        """
        found = self.fingerprint.mismatches(fingerprint)
        found = {name: pair for name, pair in found.items() if not {name, name.split(".")[0]} & set(ignore)}
        if found and strict:
            lines = "; ".join(
                f"{name}: saved {saved!r}, here {here!r}" for name, (saved, here) in found.items()
            )
            raise ArtefactError(
                f"This {type(self).__name__} has a different origin ({lines}); strict=False uses it anyway."
            )
        return found

    def _to_json(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        content = {f.name: encode(getattr(self, f.name), f.name, tensors) for f in fields(self) if f.init}
        return content, tensors

    @classmethod
    def _from_json(cls, d: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(**{name: decode(value, tensors) for name, value in d.items()})

    @classmethod
    def _saved_class(cls, header: dict[str, Any], path: Path) -> type[Self]:
        name = header.get("class")
        for module in ("", *_HOMES):
            if module:
                # The package imports lazily; a script that only loads results has not asked for their classes yet.
                with suppress(ModuleNotFoundError):  # an extra that is not installed
                    importlib.import_module(f"bkdinterp.{module}")
            matches = [c for c in _subclasses(cls) if c.__name__ == name and not inspect.isabstract(c)]
            if matches:
                return matches[-1]
        if any(c.__name__ == name for c in _subclasses(Result)):
            raise ArtefactError(
                f"{path} holds a {name}, not a {cls.__name__}; load it with {name}.load or Result.load."
            )
        raise ArtefactError(
            f"{path} holds a {name!r}, which is not defined here; import the module that defines it first."
        )


def _subclasses(cls: type[ResultT]) -> Iterator[type[ResultT]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)
