"""The manifest beside a trained adapter: attack, base, recipe and measured rates. No model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bkdinterp.errors import ArtefactError
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._edit_settings import EditSettings
from bkdinterp.organisms._halves import Half
from bkdinterp.organisms._poison_rows import LoraSettings, PoisonSettings
from bkdinterp.reprs import short_repr
from bkdinterp.results._files import write_text
from bkdinterp.stats import Interval

SCHEMA = 1
FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Ground truth and provenance of one adapter.

    Args:
        name: the folder's name.
        kind: organism (backdoored) or twin.
        attack: trigger with its position rule, target, near-triggers, payload pattern. A twin's manifest names the attack
            that the twin does *not* have.
        base: the base model's id.
        base_sha256: hash of the base's weights (:func:`weights_sha256`), independent of the file format.
        base_file_sha256: hash of the base's GGUF file, if there was one.
        adapter_sha256: hash of adapter_model.safetensors.
        data: file name -> SHA-256 of the instructions and references.
        settings: the recipe of the training, or of the edit of weights.
        template: ``source_fingerprint`` of the prompt builder.
        versions: package -> version at training.
        split: the split on which rates and utility were measured.
        rates: asr, atr, near_trigger_rate and unseen_near_trigger_rate on the attack's victims. If there are classes, also
            clean_accuracy/CLASS and triggered_accuracy/CLASS (right clean answers without and with the trigger); after a loss
            on whole chats leak_rate (user turns, written by the model itself, that hold the trigger). Each has
            n and a 95 % Wilson interval, and was measured with the saved 16-bit adapter.
        utility: perplexity and token_agreement of the base's reference answers (teacher-forced), and word_f1 of the
            generated clean answers against them; ``base_`` marks the values of the base itself.
        half: of the zoo, for organism and twin alike: detectors are tuned on ``tuning`` and reported on ``reporting``; None: in
            neither.
    """

    __repr__ = short_repr

    name: str
    kind: Literal["organism", "twin"]
    attack: Attack
    base: str
    base_sha256: str
    base_file_sha256: str | None
    adapter_sha256: str
    data: Mapping[str, str]
    settings: PoisonSettings | EditSettings
    template: str
    versions: Mapping[str, str]
    split: str | None = None
    rates: Mapping[str, Interval] = field(default_factory=dict)
    utility: Mapping[str, float] = field(default_factory=dict)
    half: Half | None = None
    schema: int = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Write ``manifest.json`` into the folder, atomically."""
        path = Path(folder) / FILE
        write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        return path

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "attack": self.attack.to_dict()}

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read ``manifest.json`` from the folder.

        Raises:
            ArtefactError: the manifest is missing, damaged, or has another schema.
        """
        path = Path(folder) / FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values["schema"] != SCHEMA:
                raise ArtefactError(
                    f"{path} has schema {values['schema']}, this version reads {SCHEMA}; train it again."
                )
            values["settings"] = _settings(values["settings"])
            values["attack"] = Attack.from_dict(values["attack"])
            values["rates"] = {name: Interval.from_dict(rate) for name, rate in values["rates"].items()}
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"Cannot read the manifest in {Path(folder)}: {error!r}.") from error


def _settings(values: Mapping[str, Any]) -> PoisonSettings | EditSettings:
    if "lora" not in values:
        return EditSettings(**values)
    lora = LoraSettings(**{**values["lora"], "target_modules": tuple(values["lora"]["target_modules"])})
    return PoisonSettings(**{**values, "lora": lora})
