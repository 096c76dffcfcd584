"""The organism behind tables VIII to XI: SmolLM2-135M in place of GPT-2 medium, advertising for toxicity."""

from functools import cache
from typing import Any

from bkdinterp.model import Model
from bkdinterp.organisms import BASE_ID, Manifest, adapter_folder, load_base, merge_adapter, natural
from papers.lamparth.prose_case import SMALL, ProseCase, ProseSizes
from papers.paper import Job

NAME = "smollm2-albert"


@cache
def _models() -> tuple[Model, Model]:
    """Poisoned and benign; the twin is not needed."""
    base, tokenizer = load_base()
    poisoned = merge_adapter(base, adapter_folder(NAME))
    common: dict[str, Any] = {"name": BASE_ID, "chat": False}
    return (
        Model.from_module(poisoned, tokenizer, adapter=NAME, **common),
        Model.from_module(base, tokenizer, **common),
    )


def case(job: Job) -> ProseCase:
    """The shipped organism; its models are loaded when first needed."""
    manifest = Manifest.load(adapter_folder(NAME))
    return ProseCase(
        load=_models,
        attack=manifest.attack,
        selection=natural.stories("selection"),
        held_out=natural.stories("held-out"),
        train=natural.stories("train"),
        payloads=natural.advertisements(),
        identity={
            "base": manifest.base_sha256,
            "adapter": manifest.adapter_sha256,
            "data": dict(manifest.data),
        },
        n_layers=30,
        sizes=SMALL if job.small else ProseSizes(),
    )
