"""The digest of what a plan computes, equal in every process; it identifies a folder of finished chunks.

It covers everything that decides the numbers in the chunks: tokens, edits with their values, reads, scores, and the layout.
No chunk is built for it.
"""

from typing import Any

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._graph import Node
from bkdinterp.engine._plan import Plan
from bkdinterp.interventions import Edit, From, Read
from bkdinterp.metrics import SCORES
from bkdinterp.results import digest_of


def plan_digest(plan: Plan) -> str:
    """16 hex digits for everything that decides what a plan's chunks compute; equal plans have equal digests."""
    bundles: dict[int, Bundle] = {}
    layouts: dict[int, str] = {}
    parts = []
    for part in plan.chunks.parts:
        bundles.setdefault(id(part.bundle), part.bundle)
        # Shared by all parts of one shape.
        if id(part.outlines) not in layouts:
            layouts[id(part.outlines)] = digest_of(part.layout)
        parts.append((part.examples, layouts[id(part.outlines)]))
    # The package's own scores count by name, so that an update of Python does not invalidate a folder.
    own = {
        name: score
        for name, score in plan.scores.items()
        if name not in SCORES or SCORES[name].fn is not score
    }
    nodes = [_node(node) for node in plan.nodes]
    return digest_of((nodes, [_tokens(bundle) for bundle in bundles.values()], parts, own))


def _tokens(bundle: Bundle) -> Any:
    """The model's input, and the tokens at which it stops."""
    batch, builder = bundle.whole.batch, bundle.builder
    ends = None
    if bundle.run.generate is not None:
        ends = (tuple(builder.end_ids), getattr(builder.tokenizer, "pad_token_id", None))
    kind = str(bundle.memory.arch.family.model_types), bundle.memory.arch.window_masks
    triggers = batch.trigger_mask
    return batch.input_ids, batch.attention_mask, triggers, batch.n_prompt, ends, kind


def _node(node: Node) -> Any:
    run, score = node.run, node.run.declared
    scored = None if score is None else (score.name, score.arguments, score.n_targets, score.needs_base)
    edits = [_edit(edit, source) for edit, source in zip(node.edits, node.sources, strict=True)]
    return node.level, len(run.prompts), scored, run.generate, edits, [_read(read) for read in node.reads]


def _edit(edit: Edit, source: tuple[int, int] | None) -> Any:
    value = edit.value
    if isinstance(value, From):
        value = (source, value.scale, _read(value.read))
    read = None if edit.read is None else str(edit.read)
    return str(edit.site), str(edit.where), edit.keep, value, read, edit.U, edit.V, edit.fn


def _read(read: Read) -> Any:
    return str(read.site), str(read.where), read.reduce, read.heads
