"""Model: an nnsight model with its architecture, its prompt builder, and where it came from."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from nnsight.modeling.transformers import TransformersModel
from torch.nn import Module

from bkdinterp.errors import PromptError, RemoteError
from bkdinterp.model._adapter import merge_adapter
from bkdinterp.model._architecture import Architecture
from bkdinterp.model._load import load_module, load_skeleton
from bkdinterp.prompts import PromptBuilder
from bkdinterp.results import Fingerprint, versions


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model that methods can run on; made by ``load``, ``from_module`` or ``from_nnsight``.

    Attributes:
        nn: the nnsight model, for traces of your own.
        architecture: sizes and module paths.
        builder: how prompts become tokens (chat template or raw text).
        name: id shown in results.
        revision, adapter: of the weights, where known.
        executor: default for every method; None runs locally.
    """

    nn: Any
    architecture: Architecture
    builder: PromptBuilder
    name: str
    revision: str | None = None
    adapter: str | None = None
    executor: Any = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        chat: bool | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        executor: Any = None,
    ) -> Self:
        """Load from a hub id, a folder, or a GGUF file; an adapter is checked and merged.

        Args:
            source: hub id, folder of ``save_pretrained``, or ``.gguf`` file.
            adapter: folder of a PEFT LoRA adapter (safetensors).
            revision: of a hub id.
            gguf_file: name of a GGUF inside a folder or hub repository.
            dtype: of the weights; float32 for scoring.
            device: where the weights go.
            chat: use the chat template; None uses it where the tokenizer has one.
            system: system message for chat prompts; see `PromptBuilder`.
            chat_template: instead of the tokenizer's, e.g. the prompt format of a fine-tune.
            trust_remote_code: run the model's own code; off.
            executor: default executor for every method. With a ``Remote`` no weights are loaded: configuration and
                tokenizer suffice.

        Raises:
            ArtefactError, UnsafeWeightsError, UnsupportedArchitectureError: see ``load_module``.
            PromptError: chat=True without a chat template.
            RemoteError: a GGUF file, or an adapter that the server does not have, with a remote executor.
        """
        name = Path(source).name if Path(source).exists() else str(source)
        adapter_name = None if adapter is None else Path(adapter).name
        if _is_remote(executor):
            _check_remote(source, gguf_file, adapter_name, executor)
            skeleton, tokenizer = load_skeleton(
                source, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
            )
            architecture = Architecture.detect(skeleton._module)
            return cls(
                nn=skeleton,
                architecture=architecture,
                builder=_builder(tokenizer, architecture, chat, system, chat_template),
                name=name,
                revision=revision,
                adapter=adapter_name,
                executor=executor,
            )
        module, tokenizer = load_module(
            source,
            gguf_file=gguf_file,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        if adapter is not None:
            module = merge_adapter(module, adapter, in_place=True)
        return cls.from_module(
            module,
            tokenizer,
            name=name,
            revision=revision,
            adapter=adapter_name,
            chat=chat,
            system=system,
            chat_template=chat_template,
            executor=executor,
        )

    @classmethod
    def from_module(
        cls,
        module: Module,
        tokenizer: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        adapter: str | None = None,
        chat: bool | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        executor: Any = None,
    ) -> Self:
        """Wrap a Hugging Face model in memory; its weights are shared, not copied.

        Raises:
            UnsupportedArchitectureError: a module tree that no family describes.
            PromptError: chat=True without a chat template.
        """
        architecture = Architecture.detect(module)
        module.eval()
        nn_model = TransformersModel(module, tokenizer=tokenizer, task="text-generation")  # type: ignore[arg-type]
        return cls(
            nn=nn_model,
            architecture=architecture,
            builder=_builder(tokenizer, architecture, chat, system, chat_template),
            name=name or getattr(module.config, "name_or_path", "") or type(module).__name__,  # type: ignore[union-attr, arg-type]
            revision=revision,
            adapter=adapter,
            executor=executor,
        )

    @classmethod
    def from_nnsight(
        cls,
        nn_model: Any,
        *,
        name: str | None = None,
        chat: bool | None = None,
        system: str | None = None,
        chat_template: str | None = None,
    ) -> Self:
        """Wrap an existing nnsight ``TransformersModel`` whose weights are loaded.

        Raises:
            UnsupportedArchitectureError, PromptError: as `from_module`.
        """
        module = nn_model._module
        architecture = Architecture.detect(module)
        builder = _builder(nn_model.tokenizer, architecture, chat, system, chat_template)
        return cls(
            nn_model,
            architecture,
            builder,
            name or getattr(module.config, "name_or_path", "") or type(module).__name__,
        )

    def with_builder(self, **changes: Any) -> Self:
        """The same model with other prompt settings, e.g. ``with_builder(system="Be brief.")``."""
        return replace(self, builder=replace(self.builder, **changes))

    @property
    def module(self) -> Module:
        """The plain Hugging Face module."""
        return self.nn._module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.builder.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where inputs go; the CPU for a model without weights."""
        device = next(self.module.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.module.parameters()).dtype

    @property
    def weights_id(self) -> str:
        """8 hex digits of the SHA-256 of all parameters (about a second per GB; kept until one changes in place).

        ``"remote"`` where a server computes: its weights cannot be looked at from here.
        """
        if _is_remote(self.executor) or next(self.module.parameters()).is_meta:
            return "remote"
        parameters = sorted(self.module.named_parameters())
        state = tuple((p.data_ptr(), p._version) for _, p in parameters)
        known = self.__dict__.get("_weights_id")
        if known is None or known[0] != state:
            known = (state, self._hash_weights())
            self.__dict__["_weights_id"] = known
        return known[1]

    def _hash_weights(self) -> str:
        digest = hashlib.sha256()
        for key, p in sorted(self.module.named_parameters()):
            digest.update(key.encode())
            digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().data if p.numel() else b"")
        return digest.hexdigest()[:8]

    def fingerprint(self, data: str = "", *, seed: int | None = None) -> Fingerprint:
        """What a result on this model and this data carries with it."""
        return Fingerprint(
            model=f"{self.name}@{self.weights_id}",
            revision=self.revision,
            adapter=self.adapter,
            dtype="as deployed" if self.weights_id == "remote" else str(self.dtype).removeprefix("torch."),
            template=self.builder.fingerprint,
            data=data,
            seed=seed,
            versions=versions(),
        )

    def __repr__(self) -> str:
        a = self.architecture
        prompts = "chat template" if self.builder.chat else "raw text"
        return (
            f"Model({self.name}: {a.family.name}, {a.n_layers} layers x {a.n_heads} heads, d_model {a.d_model}, "
            f"d_head {a.d_head}, {str(self.dtype).removeprefix('torch.')}, {prompts})"
        )


def _is_remote(executor: Any) -> bool:
    return bool(getattr(executor, "remote", False))


def _check_remote(source: str | Path, gguf_file: str | None, adapter: str | None, executor: Any) -> None:
    if gguf_file is not None or Path(source).suffix == ".gguf":
        raise RemoteError(
            "A server has no GGUF files; name the hub id of the checkpoint that it has deployed."
        )
    if adapter is not None and getattr(executor, "deployed", None) is None:
        raise RemoteError(
            f"The adapter {adapter!r} is not on the server. Have the merged checkpoint deployed and name it: "
            "executor=Remote(..., deployed='org/merged-checkpoint')."
        )


def _builder(
    tokenizer: Any,
    architecture: Architecture,
    chat: bool | None,
    system: str | None,
    chat_template: str | None,
) -> PromptBuilder:
    has_template = bool(chat_template or getattr(tokenizer, "chat_template", None))
    if chat and not has_template:
        raise PromptError(
            "chat=True, but this tokenizer has no chat template; pass chat=False, set tokenizer.chat_template or give "
            "chat_template=."
        )
    return PromptBuilder(
        tokenizer,
        chat=has_template if chat is None else chat,
        system=system,
        max_length=architecture.max_length,
        chat_template=chat_template,
        vocabulary=architecture.d_vocab,
    )
