"""The base of every result: a frozen value with an origin that can be saved, tabulated and plotted.

A subclass is ``@dataclass(frozen=True, eq=False)`` with ``fingerprint`` first and its raw measurements after
it; mean, interval and top-k are methods that derive from them. No forward pass.
"""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.reprs import LIMIT, cut
from bkdinterp.results._codec import decode, encode
from bkdinterp.results._fields import check_fields
from bkdinterp.results._files import disk
from bkdinterp.results._fingerprint import Fingerprint
from bkdinterp.results._folder import JSON, read_header, read_tensors, write_folder
from bkdinterp.results._html import html_table
from bkdinterp.values import as_path

ResultT = TypeVar("ResultT", bound="Result")

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """What a method returns.

    A subclass writes ``to_frame`` and ``plot``, may write ``describe``, and raises ``schema_version`` when
    its fields change.

    Attributes:
        fingerprint: where the result comes from.
    """

    schema_version: ClassVar[int] = 1

    fingerprint: Fingerprint

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # @dataclass would put its own repr, with whole tensors in it, over the inherited one.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    @abstractmethod
    def to_frame(self) -> "pandas.DataFrame":
        """The result as a long table, one row per measurement."""

    @abstractmethod
    def plot(self) -> "matplotlib.figure.Figure":
        """The result as a figure; BkdinterpError where matplotlib is missing."""

    def _validate(self) -> None:
        """Check what types and shapes cannot say, e.g. that two mappings have the same keys; called when one was loaded.

        Raises:
            ArtefactError: the fields contradict each other.
        """
        return

    def describe(self) -> str:
        """One line for the repr: tensor shapes, lengths and the model; subclasses may say it better."""
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
        """For notebooks: the repr as a title, and the first rows of the table; everything is escaped text."""
        return html_table(repr(self), self.to_frame())

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json`` and ``tensors.safetensors`` into ``folder``, as a whole or not at all.

        An earlier result in ``folder`` is replaced, other files in it are kept.

        Raises:
            ArtefactError: ``folder`` is a file, or has content but no result; a field cannot be saved; or the disk is full or
                cannot be written to (an earlier result is then still there).
        """
        target = as_path(folder, "folder", error=ArtefactError)
        content, tensors = self._to_json()
        header = {"class": type(self).__name__, "schema_version": self.schema_version, "fields": content}
        with disk(
            target
        ):  # "." and ".." have no name to put a sibling beside; no Path.resolve(), which has its own error
            resolved = Path(
                os.path.realpath(target)
            )  # for a loop of links: the operating system says it when writing
        write_folder(resolved, header, tensors)
        return target

    @classmethod
    def load(cls, folder: str | Path, *, expect: Fingerprint | None = None, strict: bool = True) -> Self:
        """Read what `save` wrote, onto the CPU; ``Result.load`` finds the class, others want their own.

        Args:
            folder: the result's folder.
            expect: ``model.fingerprint()`` of the model it is about to be used with; data, seed and versions may differ.
            strict: raise when model, revision, adapter, dtype or template differ from ``expect``.

        Raises:
            ArtefactError: a missing or damaged file, another class, another schema version, another model, or fields of
                other types, shapes or lengths than the class has.
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
            repr(result)  # what it is made of must at least be printable
        except ArtefactError as error:
            raise ArtefactError(f"{path / JSON}: {error}") from error
        # Whatever a constructor says about wrong content is, here, damage to the file.
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
        """Field -> (saved, here) where this result's origin differs from ``fingerprint``.

        Args:
            fingerprint: of what the result is about to be used with.
            strict: raise when something differs.
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
                f"This {type(self).__name__} has another origin ({lines}); strict=False uses it anyway."
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
