"""TextClassifier: a Hugging Face text-classification model that detects a payload. One forward per batch of texts.

Lamparth & Reuel (arXiv 2302.12461) detect their payload with a RoBERTa toxicity classifier. No remote code, only
safetensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bkdinterp.errors import ArtefactError, BkdinterpError, PromptError
from bkdinterp.model._errors_at_load import own_errors
from bkdinterp.model._load import read_folder, try_tokenizer
from bkdinterp.model._running import running
from bkdinterp.model._staging import staged
from bkdinterp.model._tensors_used import check_used
from bkdinterp.model._weights_source import resolve
from bkdinterp.reprs import short_repr


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """Probability of one label for each text: ``Payload.by(TextClassifier.load("s-nlp/roberta_toxicity_classifier"))``.

    Attributes:
        module: a sequence-classification model in eval mode.
        tokenizer: its tokenizer.
        label: index of the label whose probability is the score.
        name: model and label, for saved results.
        batch_size: texts per forward.

    Raises:
        BkdinterpError: ``batch_size`` below 1.
    """

    __repr__ = short_repr

    module: Any
    tokenizer: Any
    label: int
    name: str
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise BkdinterpError(
                f"TextClassifier: batch_size={self.batch_size!r} must be an integer of at least 1."
            )

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
        """Load from a hub id or a folder.

        Args:
            source: hub id or folder of a model with a sequence-classification head.
            label: name or index of the payload's label; None takes the last one ("toxic" in "neutral", "toxic").
            revision: revision of a hub id.
            device: where the weights go.
            batch_size: texts per forward.

        Raises:
            ArtefactError: the model is missing or damaged, its weights lack the head, or stored weights have no place in
                the model.
            UnsafeWeightsError: only pickled weights, files outside the folder, or a model that needs its own code.
            BkdinterpError: an unknown label, ``batch_size`` below 1, or no pad token for batches.
        """
        from transformers import AutoModelForSequenceClassification

        place = resolve(source, revision=revision)
        with own_errors("load a text classifier from", place.given):
            if place.folder is None:
                raise ArtefactError(f"{place.given} is not the folder of a text classifier.")
            with staged(place.folder) as staging:
                module, tokenizer, found = read_folder(
                    staging, AutoModelForSequenceClassification, place.given, dtype=torch.float32
                )
                if missing := sorted(found["missing_keys"]):
                    raise ArtefactError(f"{place.given!r} is not a text classifier: it lacks {missing[0]!r}.")
                check_used(module, found, staging.stored, place.given, classifier=True)
            module.config._name_or_path = module.name_or_path = tokenizer.name_or_path = place.given
        with own_errors("use the text classifier in", place.given):
            module.to(device).eval()
            try_tokenizer(tokenizer)
            return cls.of(module, tokenizer, label=label, name=place.given, batch_size=batch_size)

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
        """Make one from a module in memory; scores two texts to check that it is a classifier.

        Raises:
            BkdinterpError: the module is not a sequence classifier, the label is unknown, ``batch_size`` is below 1, or
                there is no pad token for batches.
        """
        id2label = getattr(getattr(module, "config", None), "id2label", None)
        if not id2label:
            raise BkdinterpError(
                f"{type(module).__name__} names no labels; give a Hugging Face sequence-classification module."
            )
        names = {int(i): str(text) for i, text in id2label.items()}
        index = max(names) if label is None else label
        if isinstance(index, str):
            index = next((i for i, text in names.items() if text.casefold() == index.casefold()), -1)
        if index not in names:
            raise BkdinterpError(f"No label {label!r}; there are {', '.join(names.values())}.")
        whole = f"{name or type(module).__name__}: {names[index]}"
        judge = cls(module, tokenizer, index, whole, batch_size)
        # A classifier is first called after all texts have been generated, so its faults should show here.
        judge(["a", "a b c"])
        return judge

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The label's probability for each text; texts longer than the model's context are truncated.

        Raises:
            PromptError: ``texts`` is a single string.
            BkdinterpError: the module does not give one row of label scores per text, or there is no pad token for
                batches.
        """
        if isinstance(texts, str):
            raise PromptError(f"TextClassifier: {texts[:40]!r} is one text; give a list of texts.")
        if self.batch_size > 1 and self.tokenizer.pad_token_id is None:
            raise self._no_batches("its tokenizer has no pad token")
        out: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            cut: dict[str, Any] = {"truncation": True, "max_length": self._context()}
            batch = self.tokenizer(part, return_tensors="pt", padding=self.batch_size > 1, **cut)
            try:
                with running(self.module):
                    logits = self.module(**batch.to(self.module.device)).logits.float()
            except ValueError as error:  # from models that read the last token and cannot tell which it is
                raise self._no_batches(str(error)) from error
            if logits.ndim != 2 or logits.shape[-1] <= self.label:
                raise BkdinterpError(
                    f"{type(self.module).__name__} gives scores of shape {tuple(logits.shape)} for {len(part)} texts; "
                    "a text classifier gives one row of label scores each. Give a sequence-classification module."
                )
            several = self.module.config.problem_type == "multi_label_classification"
            chances = logits.sigmoid() if several or logits.shape[-1] == 1 else logits.softmax(-1)
            out += chances[:, self.label].tolist()
        return out

    def _no_batches(self, why: str) -> BkdinterpError:
        return BkdinterpError(
            f"{self.name} cannot score a batch of {self.batch_size} texts ({why}); set tokenizer.pad_token and "
            "module.config.pad_token_id, or give batch_size=1."
        )

    def _context(self) -> int:
        """Number of tokens that fit; many tokenizers do not know it and call it infinite."""
        places = getattr(self.module.config, "max_position_embeddings", None) or 0
        for name, part in self.module.named_modules():
            # RoBERTa counts positions from its padding index, so fewer tokens fit than it has positions.
            if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
                places -= part.padding_idx + 1
        known = self.tokenizer.model_max_length
        return min(known, places) if places > 0 else known
