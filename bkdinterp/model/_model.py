"""Model: an nnsight model with its architecture, prompt builder and origin."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from nnsight.modeling.transformers import TransformersModel
from torch.nn import Module

from bkdinterp.errors import ArtefactError, PromptError, RemoteError
from bkdinterp.model._adapter import merge_adapter
from bkdinterp.model._adapter_tokenizer import adapter_tokenizer as adapter_tokenizer_of
from bkdinterp.model._architecture import Architecture
from bkdinterp.model._device import as_device, as_dtype
from bkdinterp.model._identity import weights_id
from bkdinterp.model._load import load_module, load_skeleton
from bkdinterp.model._parts import as_parts
from bkdinterp.model._running import copied, lock_of
from bkdinterp.model._save import save_folder
from bkdinterp.model._tensors_used import check_loaded
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.model._weights_source import source_name
from bkdinterp.prompts import PromptBuilder
from bkdinterp.results import Fingerprint, versions
from bkdinterp.values import as_path

HASHED_IN_REPR = 10**9
"""Most parameters for which a repr shows the hash of weights; for more it would take seconds."""


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model that methods can run on; made by ``load``, ``from_module`` or ``from_nnsight``.

    Attributes:
        nn: the nnsight model, for your own traces.
        architecture: sizes and module paths.
        builder: how prompts become tokens (chat template or raw text).
        name: id shown in results.
        revision, adapter: revision and adapter of the weights, if known.
        executor: default executor of every method; None runs locally.
        tokenizer_from: ``"adapter"`` if tokenizer or chat template come from the adapter's folder, else ``"base"``.
    """

    nn: Any
    architecture: Architecture
    builder: PromptBuilder
    name: str
    revision: str | None = None
    adapter: str | None = None
    executor: Any = None
    tokenizer_from: str = "base"

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: Any = torch.float32,
        device: Any = "cpu",
        chat: bool | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        adapter_tokenizer: bool = True,
        executor: Any = None,
    ) -> Self:
        """Load from a hub id, a folder, or a GGUF file; an adapter is checked and merged.

        Args:
            source: hub id, folder of ``save_pretrained``, or ``.gguf`` file.
            adapter: folder of a PEFT LoRA adapter (safetensors).
            adapter_tokenizer: use the tokenizer and chat template in the adapter's folder, if any, because it was trained
                with them; False keeps the base's.
            revision: revision of a hub id.
            gguf_file: name of a GGUF file inside a folder or hub repository.
            dtype: dtype of the weights, also by name (``"bfloat16"``); use float32 for scoring.
            device: where the weights go: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
            chat: use the chat template; None uses it if the tokenizer has one.
            system: system message for chat prompts; see `PromptBuilder`.
            chat_template: replaces the tokenizer's, e.g. with the prompt format of a fine-tune.
            trust_remote_code: allow the model's own code to run; off by default.
            executor: default executor of every method. With a ``Remote`` no weights are loaded, only configuration and
                tokenizer.

        Raises:
            ArtefactError, UnsafeWeightsError, UnsupportedArchitectureError: see ``load_module``.
            PromptError: chat=True without a chat template.
            BkdinterpError: the device is not on this machine.
            RemoteError: a remote executor with a GGUF file, or with an adapter that the server does not have.
        """
        name = source_name(source)
        dtype, device = as_dtype(dtype), as_device(device)
        folder = None if adapter is None else as_path(adapter, "adapter", error=ArtefactError)
        adapter_name = None if folder is None else folder.resolve().name
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
        tokenizer_from = "base"
        if folder is not None:
            module = merge_adapter(module, folder, in_place=True)
            own = adapter_tokenizer_of(folder, tokenizer, module) if adapter_tokenizer else None
            tokenizer, tokenizer_from = (tokenizer, "base") if own is None else (own, "adapter")
        made = cls.from_module(
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
        return replace(made, tokenizer_from=tokenizer_from)

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

        The module is not changed. If it is in training mode, every run switches it to eval mode and back.

        Raises:
            UnsupportedArchitectureError: no family describes the module tree.
            PromptError: chat=True without a chat template, or no tokenizer.
        """
        as_parts(module, tokenizer, "Model.from_module")
        module = getattr(module, "_orig_mod", module)  # compiled code would bypass the hooks
        with lock_of(module), plain_torch():
            architecture = Architecture.detect(module)
            nn_model = wrapped(module, tokenizer)
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

        nnsight has loaded the weights unchecked; only `load` checks that the files and the model agree.

        Raises:
            ArtefactError: nnsight has not loaded the weights yet (its default), or the head is not tied as the config
                says.
            UnsupportedArchitectureError, PromptError: as `from_module`.
        """
        check_loaded(nn_model)
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

    def save(self, folder: Any) -> Path:
        """Write weights (any adapter merged in), config, tokenizer and chat template; returns the folder.

        ``transformers.AutoModelForCausalLM.from_pretrained(folder)`` and ``Model.load(folder)`` read it. It also works for
        models from GGUF files and for edited copies (`export_weights`); embeddings untied by an adapter stay untied. The
        builder's system message is not saved.

        Args:
            folder: a new or empty folder; it is written atomically.

        Raises:
            ArtefactError: the folder is not empty or not writable, or the model's weights are not in memory.
        """
        return save_folder(self.module, self.tokenizer, folder)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model on a copy of the weights; builder and tokenizer are shared."""
        if next(self.module.parameters()).is_meta:
            return self  # has nothing that can change
        with plain_torch():
            return replace(self, nn=wrapped(copied(self.module), self.tokenizer))

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
        """Device of the weights, and so of the inputs; the CPU for a model without weights."""
        device = next(self.module.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.module.parameters()).dtype

    @property
    def weights_id(self) -> str:
        """Identifies the model: 8 hex digits for its parameters, a dash, 8 for everything else that decides its outputs.

        The second half covers buffers and the settings of the forward pass (rotary frequencies, epsilons, soft-caps,
        windows, activation functions). A change in place is noticed, also one through ``.data``: each call sums up every
        byte (0.3 s for 135M parameters in float32 on one core), and hashes again if the sum has changed (0.7 s).
        It is ``"remote"`` if the model runs on a server, whose weights cannot be read from here.
        """
        if _is_remote(self.executor) or next(self.module.parameters()).is_meta:
            return "remote"
        return weights_id(self.module)

    def fingerprint(self, data: str = "", *, seed: int | None = None) -> Fingerprint:
        """The fingerprint of a result from this model and this data."""
        weights = self.weights_id
        return Fingerprint(
            model=f"{self.name}@{weights}",
            revision=self.revision,
            adapter=self.adapter,
            dtype="as deployed" if weights == "remote" else str(self.dtype).removeprefix("torch."),
            template=self.builder.fingerprint,
            data=data,
            seed=seed,
            versions=versions(),
        )

    def __repr__(self) -> str:
        a = self.architecture
        prompts = "chat template" if self.builder.chat else "raw text"
        if self.tokenizer_from == "adapter":
            prompts += " of the adapter"
        label = f"{self.name} + {self.adapter}" if self.adapter else self.name
        small = sum(p.numel() for p in self.module.parameters()) < HASHED_IN_REPR
        weights = f", weights {self.weights_id}" if small else ""
        return (
            f"Model({label}: {a.family.name}, {a.n_layers} layers x {a.n_heads} heads, d_model {a.d_model}, "
            f"d_head {a.d_head}, {str(self.dtype).removeprefix('torch.')}, {prompts}{weights})"
        )


def wrapped(module: Any, tokenizer: Any) -> Any:
    """An nnsight model around a module in memory, which is not moved."""
    where: dict[str, Any] = {}
    if getattr(module, "hf_device_map", None) is None:
        # By default the pipeline inside moves every module to the first accelerator.
        where["device"] = next(module.parameters()).device
    return TransformersModel(module, tokenizer=tokenizer, task="text-generation", **where)


def without_text(module: Any) -> Any:
    """An nnsight model that takes token ids only; nnsight wants a tokenizer, so it gets one of a single word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    one = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return wrapped(module, PreTrainedTokenizerFast(tokenizer_object=one, pad_token="<pad>"))


def _is_remote(executor: Any) -> bool:
    return bool(getattr(executor, "remote", False))


def _check_remote(source: str | Path, gguf_file: str | None, adapter: str | None, executor: Any) -> None:
    if gguf_file is not None or Path(source).suffix.lower() == ".gguf":
        raise RemoteError(
            "A server cannot load GGUF files; give the hub id of the checkpoint that it has deployed."
        )
    if adapter is not None and getattr(executor, "deployed", None) is None:
        raise RemoteError(
            f"The adapter {adapter!r} is not on the server. Have the merged checkpoint deployed and give its name: "
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
