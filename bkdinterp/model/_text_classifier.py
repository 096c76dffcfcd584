"""TextClassifier: a Hugging Face text-classification model as a payload's judge. One forward per batch of texts.

Lamparth & Reuel (arXiv 2302.12461) tell their payload by a RoBERTa toxicity classifier. No remote code, safetensors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """Texts -> the probability of one label: ``Payload.by(TextClassifier.load("s-nlp/roberta_toxicity_classifier"))``.

    Attributes:
        module: a sequence-classification model in eval mode.
        tokenizer: its tokenizer.
        label: index of the label whose probability is the score.
        name: model and label, for saved results.
        batch_size: texts per forward.
    """

    module: Any
    tokenizer: Any
    label: int
    name: str
    batch_size: int = 32

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        label: str | int | None = None,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
    ) -> "TextClassifier":
        """From a hub id or a folder.

        Args:
            source: of a model with a sequence-classification head.
            label: name or index of the payload's label; None takes the last one (of "neutral" and "toxic": "toxic").
            revision: of a hub id.
            device: where the weights go.
            batch_size: texts per forward.

        Raises:
            ArtefactError: nothing there, a damaged file, or weights without the head.
            UnsafeWeightsError: pickled weights only, or a model that needs its own code.
            BkdinterpError: an unknown label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        common: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), **common)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                str(source), use_safetensors=True, output_loading_info=True, **common
            )
        except Exception as error:  # loaders raise many kinds
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "trust_remote_code" in str(error) or "safetensors" in text:
                raise UnsafeWeightsError(
                    f"{source} has no safetensors weights, or wants to run its own code. Refused. ({text})"
                ) from error
            raise ArtefactError(f"Cannot load a text classifier from {str(source)!r}: {text}") from error
        module, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise ArtefactError(f"{str(source)!r} is no text classifier: it lacks {missing[0]!r}.")
        return cls.of(
            module.to(device).eval(), tokenizer, label=label, name=str(source), batch_size=batch_size
        )

    @classmethod
    def of(
        cls,
        module: Any,
        tokenizer: Any,
        *,
        label: str | int | None = None,
        name: str = "",
        batch_size: int = 32,
    ) -> "TextClassifier":
        """From a module in memory.

        Raises:
            BkdinterpError: an unknown label.
        """
        names = {int(i): str(text) for i, text in module.config.id2label.items()}
        index = max(names) if label is None else label
        if isinstance(index, str):
            index = next((i for i, text in names.items() if text.casefold() == index.casefold()), -1)
        if index not in names:
            raise BkdinterpError(f"No label {label!r}; there are {', '.join(names.values())}.")
        whole = f"{name or type(module).__name__}: {names[index]}"
        return cls(module, tokenizer, index, whole, batch_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The label's probability for each text; longer ones than the model's context are cut."""
        out: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            batch = self.tokenizer(part, return_tensors="pt", padding=True, truncation=True).to(
                self.module.device
            )
            logits = self.module(**batch).logits.float()
            several = self.module.config.problem_type == "multi_label_classification"
            chances = logits.sigmoid() if several or logits.shape[-1] == 1 else logits.softmax(-1)
            out += chances[:, self.label].tolist()
        return out
