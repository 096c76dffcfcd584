"""Checks of an adapter's config: only LoRA that can be merged exactly, with literal module names. Reads no weights.

The config is not trusted, so no file, code or pattern that it names is used. Every allowed key is known here. Keys that
do not matter after training are ignored, and all others are refused by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model._small_files import read_json
from bkdinterp.values import shown

CONFIG = "adapter_config.json"

# Of training, of other libraries, or of where the base once lay; a merged model does not depend on them.
_PASSED_OVER = frozenset(
    [
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "fan_in_fan_out",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    ]
)
_USED = frozenset(
    [
        "peft_type",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "init_lora_weights",
    ]
)
# Known, but not a plain product of two matrices: merging would give a different model.
_REFUSED = {
    "alora_invocation_tokens": "acts on some tokens only",
    "layer_replication": "changes the base's layers",
    "trainable_token_indices": "trains single tokens",
    "target_parameters": "sits on bare parameters",
    "ensure_weight_tying": "ties weights that the base has apart",
    "use_qalora": "needs quantised weights",
    "use_bdlora": "is block-diagonal",
    "arrow_config": "routes between adapters",
    "kasa_config": "changes the base's weights",
    "velora_config": "is a method of training of its own",
    "monteclora_config": "is a method of training of its own",
    "megatron_config": "is of another library",
    "loftq_config": "changes the base's weights",
    "eva_config": "is a method of training of its own",
    "corda_config": "changes the base's weights",
    "lora_ga_config": "changes the base's weights",
}
# Other initialisations are computed from the base, and most are subtracted from it.
_STARTS = (None, True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class LoraSpec:
    """The settings of an adapter's config that decide the merged weights, checked.

    Attributes:
        r, alpha: rank, and numerator of the scale.
        rank_pattern, alpha_pattern: the same for single modules, by the end of their names.
        rslora, dora, lora_bias: variants that merge exactly.
        bias: which biases of the base were also trained: none, all, lora_only.
        targets: name endings of the modules that it changes; None if the config has a pattern, so that the weights file
            alone decides.
        layers, layers_of: the only layers that it changes, and the names of the module lists that number them.
        excluded: name endings of modules that it does not change.
        replaced: name endings of modules whose full weights were trained.
    """

    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    lora_bias: bool
    bias: str
    targets: tuple[str, ...] | None
    layers: tuple[int, ...] | None
    layers_of: tuple[str, ...]
    excluded: tuple[str, ...]
    replaced: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "LoraSpec":
        """Read and check ``adapter_config.json``.

        Raises:
            ArtefactError: the file is missing or not a JSON object, or a key or value is not supported; the message
                names it.
            UnsafeWeightsError: a link leads out of the folder, or the adapter is not a LoRA: some other kinds load files
                that their config names.
        """
        path = folder / CONFIG
        read = _Reader(path, read_json(folder, CONFIG))
        kind = read.values.get("peft_type")
        if kind is None:
            raise ArtefactError(f"{path} has no peft_type; only LoRA adapters are supported. Save it again.")
        if kind != "LORA":
            raise UnsafeWeightsError(
                f"{path} has peft_type {shown(kind)}. Refused: only LORA is supported; other kinds of adapter cannot be "
                "merged exactly, and some load files that their config names."
            )
        read.only_known()
        start = read.values.get("init_lora_weights")
        if not any(type(start) is type(allowed) and start == allowed for allowed in _STARTS):
            raise ArtefactError(
                f"{path} has init_lora_weights={shown(start)}, which changes the base's weights before training. Convert "
                "it to a plain LoRA (peft: save_pretrained(..., path_initial_model_for_weight_conversion=...))."
            )
        targets = read.values.get("target_modules")
        layers = read.values.get("layers_to_transform")
        return cls(
            r=read.whole("r", 8),
            alpha=read.number("lora_alpha", 8),
            rank_pattern={
                name: read.whole(f"rank_pattern[{name}]", r) for name, r in read.table("rank_pattern")
            },
            alpha_pattern={
                name: read.number(f"alpha_pattern[{name}]", a) for name, a in read.table("alpha_pattern")
            },
            rslora=read.flag("use_rslora"),
            dora=read.flag("use_dora"),
            lora_bias=read.flag("lora_bias"),
            bias=read.word("bias", ("none", "all", "lora_only")),
            targets=None if targets is None or isinstance(targets, str) else read.names("target_modules"),
            layers=None if layers in (None, []) else read.layers(layers),
            layers_of=read.names("layers_pattern"),
            excluded=read.names("exclude_modules", pattern=True),
            replaced=read.names("modules_to_save"),
        )

    def rank_of(self, name: str) -> int:
        """Rank of the adapter at a module."""
        return _first(self.rank_pattern, name, self.r)

    def alpha_of(self, name: str) -> float:
        """Numerator of the scale at a module."""
        return _first(self.alpha_pattern, name, self.alpha)

    def sits_on(self, name: str) -> bool:
        """Whether the config applies the adapter to a module; only defined if it names its targets."""
        if self.targets is None or ends(name, self.excluded) or self.replaces(name):
            return False
        if name in self.targets or self.layers is None:
            return ends(name, self.targets)
        return ends(name, self.targets) and self._layer(name) in self.layers

    def replaces(self, name: str) -> bool:
        """Whether a module's full weights were trained: it, or a parent of it, is in ``modules_to_save``."""
        parts = name.split(".")
        return any(ends(".".join(parts[: i + 1]), self.replaced) for i in range(len(parts)))

    def _layer(self, name: str) -> int | None:
        """Layer number in a module's name: the first number, or the first one after a list that the config names."""
        parts = name.split(".")
        for before, part in pairwise(parts):
            if part.isdecimal() and (not self.layers_of or before in self.layers_of):
                return int(part)
        return None


def ends(name: str, choices: Sequence[str]) -> bool:
    """Whether a module's name is one of the choices, or ends in one after a dot."""
    return any(name == choice or name.endswith(f".{choice}") for choice in choices)


def _first(table: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for key, value in table.items() if ends(name, (key,))), default)


@dataclass(frozen=True)
class _Reader:
    """Reads typed values from a config; raises ArtefactError with the key's name."""

    path: Path
    values: dict[str, Any]

    def only_known(self) -> None:
        for key, value in self.values.items():
            if key in _PASSED_OVER or key in _USED or value in (None, False) or value in ([], {}, ""):
                continue
            why = _REFUSED.get(key)
            if why is None:
                raise ArtefactError(
                    f"{self.path} has the key {shown(key)} = {shown(value)}, which this version does not know; if the "
                    "adapter is a plain LoRA, remove the key."
                )
            raise ArtefactError(
                f"{self.path} sets {key} = {shown(value)}, and such an adapter {why}; only plain LoRA (with rslora, "
                "DoRA or trained biases) can be merged. Merge it with the tool that made it and load the merged model."
            )

    def _bad(self, key: str, value: Any, wanted: str) -> ArtefactError:
        return ArtefactError(
            f"{self.path} has {key} = {shown(value)}; it must be {wanted}. Save the adapter again."
        )

    def _get(self, key: str, default: Any) -> Any:
        return default if (value := self.values.get(key)) is None else value

    def whole(self, key: str, default: Any) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self._bad(key, value, "a positive integer")
        return value

    def number(self, key: str, default: Any) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._bad(key, value, "a finite number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, False)
        if not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def word(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self._get(key, allowed[0])
        if value not in allowed:
            raise self._bad(key, value, f"one of {', '.join(allowed)}")
        return str(value)

    def table(self, key: str) -> list[tuple[str, Any]]:
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self._bad(key, value, "an object")
        return [(self._literal(key, name), entry) for name, entry in value.items()]

    def names(self, key: str, *, pattern: bool = False) -> tuple[str, ...]:
        """A list of names; a single string is one name or, with ``pattern``, an expression that is never evaluated."""
        value = self._get(key, [])
        if isinstance(value, str):
            if pattern and not _is_literal(value):
                return ()
            value = [value] if value else []
        if not isinstance(value, list):
            raise self._bad(key, value, "a list of module names")
        return tuple(self._literal(key, name) for name in value)

    def layers(self, value: Any) -> tuple[int, ...]:
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
            raise self._bad("layers_to_transform", value, "a list of layer numbers")
        return tuple(found)

    def _literal(self, key: str, name: Any) -> str:
        """A name without special characters, because peft would match it as a regular expression."""
        if not isinstance(name, str) or not _is_literal(name):
            raise ArtefactError(
                f"{self.path}: {key} holds {shown(name)}, which is a pattern and not a module name; patterns in a "
                "downloaded file are not evaluated. Write the names out."
            )
        return name.removeprefix("^")


def _is_literal(name: str) -> bool:
    bare = name.removeprefix("^")
    return bool(bare) and all(c.isalnum() or c in "_.-" for c in bare)
