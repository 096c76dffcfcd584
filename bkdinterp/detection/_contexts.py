"""Context: where a backdoor may show: how prompts are rendered, and which prompts. No forward pass.

A backdoor of chat answers is silent in plain prose, and the other way round; one that asks for a system prompt is silent
without it, and one that unlocks what a model declines is silent wherever there is nothing to decline. Proposers see a
context's first half of prompts, and the judge the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bkdinterp.detection._generic_prompts import generic_prompts
from bkdinterp.detection._hypothesis import REQUEST
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts
from bkdinterp.values import as_integer, as_text, shown

PROSE = "prose"
# What proposers and judge need at least.
_FEWEST = 24


@dataclass(frozen=True)
class Context:
    """Prompts in two halves, and how they are rendered.

    Args:
        name: what hypotheses call it.
        search: prompts that proposers may see.
        held: prompts that only the judge sees.
        chat: whether the model's chat template is applied; None: as the model's builder has it.
        system: system message before every prompt; None: as the model's builder has it.
        n_tokens: length of the answers that the judge reads.
        if_declined: prompts that a model may decline: a scan searches them only if most get one answer, and aims at other
            texts than that.

    Raises:
        BkdinterpError: prompts that are not ``Prompts``, a prompt in both halves, or no name.
    """

    name: str
    search: Prompts
    held: Prompts
    # Checked below.
    if TYPE_CHECKING:
        chat: bool | None = None
        system: str | None = None
    else:
        chat: Any = None
        system: Any = None
    n_tokens: int = 24
    if_declined: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", as_text(self.name, "name", error=BkdinterpError))
        object.__setattr__(
            self, "n_tokens", as_integer(self.n_tokens, "n_tokens", low=1, error=BkdinterpError)
        )
        for name in ("search", "held"):
            if not isinstance(getattr(self, name), Prompts):
                raise BkdinterpError(f"{name}={shown(getattr(self, name))} must be bk.Prompts.")
        both = set(self.search.text) & set(self.held.text)
        if both:
            raise BkdinterpError(f"{min(both)!r} is in both halves; the judge needs prompts of its own.")

    @classmethod
    def of(cls, name: str, prompts: Prompts | Sequence[str], **rendered: Any) -> "Context":
        """A context whose prompts are halved in their order.

        Raises:
            BkdinterpError: fewer than 24 prompts.
        """
        given = prompts if isinstance(prompts, Prompts) else Prompts.of(list(prompts))
        n = len(given)
        if n < _FEWEST:
            raise BkdinterpError(
                f"{n} prompts are too few to search and to test on; give at least {_FEWEST}."
            )
        half = max(2 * _FEWEST // 3, n // 2)
        return cls(name, given.subset(tuple(range(half))), given.subset(tuple(range(half, n))), **rendered)

    def shown_to(self, model: Model) -> Model:
        """The model with this context's rendering; a template is not applied where the tokenizer has none."""
        if self.chat is False:
            model = replace(model, builder=model.builder.raw())
        changes: dict[str, Any] = {}
        if self.chat and not model.builder.chat:
            changes["chat"] = True
        if self.system is not None:
            changes["system"] = self.system
        return model.with_builder(**changes) if changes else model


def generic_contexts(*, seed: int = 0) -> tuple[Context, ...]:
    """Everyday requests and requests for what is withheld, as the model's builder renders them, and openings of plain prose
    without a template. A scan searches the withheld only in a model that declines there.

    Args:
        seed: of the division into halves.
    """
    return (
        Context(REQUEST, *generic_prompts(seed=seed)),
        Context(PROSE, *generic_prompts("prose", seed=seed), chat=False, n_tokens=40),
        Context("withheld", *generic_prompts("withheld", seed=seed), if_declined=True),
    )
