"""Checks of a plan, so that runs that do not fit together fail before the first forward. No forwards."""

from collections.abc import Iterable

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._graph import Node
from bkdinterp.engine._lower import Picked, Rows, Steps
from bkdinterp.engine._tokens import Tokens
from bkdinterp.engine._whole_rows import check_generation
from bkdinterp.errors import PlanError, PromptError
from bkdinterp.interventions import Edit, From
from bkdinterp.sites import Where


def check_bundle(bundle: Bundle) -> None:
    """Check that the model has every edited and read site, and that values fit their tokens.

    Raises:
        SiteError: a layer, head or position is out of range.
        PlanError: a value has the wrong width or number of examples, or generated tokens are read.
        PromptError: a generation exceeds the model's context.
    """
    whole, run = bundle.whole, bundle.run
    picked: dict[Where, Picked] = {}
    rows = Rows(0, whole.index, len(whole))
    for node in bundle.nodes:
        # The result is not needed; it only has to raise.
        steps = Steps(bundle.arch)
        for edit, source in zip(node.edits, node.sources, strict=True):
            if edit.where not in picked:
                picked[edit.where] = Picked.of(whole.chosen(edit.where))
            steps.edit(edit, picked[edit.where], rows, source)
        for i, read in enumerate(node.reads):
            whole.chosen(read.where)
            steps.read((node.index, i), read, rows=None, cols=None)
        if run.generate is not None:
            check_generation(node)
    longest, limit = max(whole.lengths), bundle.builder.max_length
    if run.generate is not None and limit is not None and longest + run.generate > limit:
        raise PromptError(
            f"The longest prompt has {longest} tokens; with {run.generate} new ones it exceeds the context of "
            f"{limit}. Ask for fewer new tokens, or drop long prompts."
        )


def check_means(nodes: Iterable[Node], tokens: Tokens) -> None:
    """Raise PlanError for a mean over no token."""
    for node in nodes:
        for read in node.reads:
            if read.reduce != "mean":
                continue
            whole = tokens.whole(node.run)
            if whole.first(read.where) == whole.columns:
                raise PlanError(
                    f"The mean of {read.site} at {read.where} is over no token: no prompt has such a position."
                )


def check_sources(nodes: list[Node], tokens: Tokens) -> None:
    """Check that runs select equal numbers of tokens per example if every token takes its own value from another run.

    Raises:
        PlanError: the numbers differ, so that tokens would get the wrong value or none.
    """
    fitting: set[tuple[int, int, Where, Where]] = set()
    for node in nodes:
        for edit, source in zip(node.edits, node.sources, strict=True):
            if source is None or not _token_by_token(edit):
                continue
            given = nodes[source[0]]
            read = given.reads[source[1]]
            a, b = tokens.whole(given.run), tokens.whole(node.run)
            key = (id(a), id(b), read.where, edit.where)
            if key in fitting:
                continue
            have, want = a.chosen(read.where).sum(1), b.chosen(edit.where).sum(1)
            wrong = ((want > 0) & (want != have)).nonzero().flatten().tolist()
            if wrong:
                i = wrong[0]
                raise PlanError(
                    f"Source and edited rows select different numbers of tokens at {edit.site}: example {i} has "
                    f"{int(have[i])} in the source run and {int(want[i])} in the edited one. Choose positions that "
                    'both have (last, trigger, indices), or Read(..., reduce="mean").'
                )
            fitting.add(key)


def _token_by_token(edit: Edit) -> bool:
    return (
        isinstance(edit.value, From) and edit.value.read.reduce is None and not edit.value.read.where.single
    )
