"""Builds the chunks of runs that share an unedited run: that run, after the tokens that its prompts have in common, and edited
copies packed into sequences. No forwards.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._lower import Picked, Rows, Steps
from bkdinterp.engine._part import Part
from bkdinterp.engine._shared_prefix import Sharing, segments
from bkdinterp.engine._shared_start import Layout, Start
from bkdinterp.engine._tokens import Slice
from bkdinterp.sites import Where


@dataclass(frozen=True, eq=False)
class SharedPart(Part):
    """The unedited run of some examples, after the start that they have in common, and the packed chunks that reuse it."""

    sharing: Sharing

    @classmethod
    def of(cls, bundle: Bundle, examples: tuple[int, ...], sharing: Sharing) -> "SharedPart":
        """Make it for one slice."""
        n_reused = 2 if sharing.shape.common else 1
        return cls(bundle, examples, sharing.outlines, sharing.totals, n_reused, sharing)

    @property
    def layout(self) -> Any:
        """The outlines, and what is kept."""
        return [*super().layout, self.sharing.starts, self.sharing.shape.early]

    @property
    def key(self) -> str:
        """Name of the unedited run, and of its start."""
        return f"base {self.bundle.nodes[0].index}/{self.examples[0]}"

    def build(self, k: int) -> Chunk:
        """Build the common start, the unedited run, or a packed chunk."""
        batch = self.bundle.slice(self.examples)
        if k >= self.n_reused:
            return self._packed(batch, k)
        if k == self.n_reused - 1:
            return self._base(batch)
        trims = self.bundle.trims(self.sharing.shape.columns)
        layout = Layout.of(batch.batch, self._common)
        return self.start_chunk(layout, batch.batch, Steps(self.bundle.arch), whole_cache=trims)

    @cached_property
    def _common(self) -> Start:
        return Start(self.sharing.shape.common)

    def _base(self, batch: Slice) -> Chunk:
        tokens, shape, outline = batch.batch, self.sharing.shape, self.outlines[self.n_reused - 1]
        steps, cached, layout = Steps(self.bundle.arch), shape.early > 0, Layout.of(tokens, self._common)
        own = shape.columns - shape.common
        for layer in self.sharing.starts:
            steps.keep(layer, str(layer), shape.early - shape.common)
        inputs = {
            "input_ids": layout.rest(tokens.input_ids)[:, :own],
            "attention_mask": layout.whole(tokens.attention_mask)[:, : shape.columns],
            "position_ids": layout.rest(tokens.position_ids)[:, :own],
            "use_cache": cached,
            "logits_to_keep": last_columns(own, outline.logits),
        }
        return Chunk(
            kind="base",
            inputs=inputs,
            steps=steps.ordered(),
            nodes=outline.nodes,
            examples=self.examples,
            bytes=outline.bytes,
            cost=outline.cost,
            layers=outline.layers,
            score_name=self.bundle.run.score_name,
            want=("like", "cache") if cached else ("like",),
            score=self._score(batch, 1, 1) if outline.scored else None,
            prefix=self.key,
            shared_rows=True,
            keep={"layers": [str(layer) for layer in self.sharing.starts]},
            common=torch.zeros(len(batch), dtype=torch.long) if shape.common else None,
            whole_cache=(cached and not shape.common and self.bundle.trims(shape.columns)) or None,
        )

    def _packed(self, batch: Slice, k: int) -> Chunk:
        arch, tokens, shape, outline = self.bundle.arch, batch.batch, self.sharing.shape, self.outlines[k]
        start, members = self.sharing.groups[k - self.n_reused]
        early, columns, n = shape.early, shape.own, shape.n
        beside = segments(arch, shape, len(members))
        groups = len(members) // beside
        steps, n_examples = Steps(arch), len(self.bundle.run.prompts)
        picked: dict[Where, Picked] = {}
        for i, member in enumerate(members):
            node = self.bundle.edited[member][1]
            rows = Rows(i // beside * n, batch.index, n_examples, i % beside * columns)
            for edit, source in zip(node.edits, node.sources, strict=True):
                if edit.where not in picked:
                    chosen = batch.chosen(edit.where)[:, early : shape.columns]
                    picked[edit.where] = Picked.of(chosen)
                steps.edit(edit, picked[edit.where], rows, source)
        per_segment = torch.arange(beside)[:, None] * columns + torch.arange(columns - shape.logits, columns)
        own = slice(early, shape.columns)
        inputs = {
            "input_ids": tokens.input_ids[:, own].repeat(groups, beside),
            "position_ids": tokens.position_ids[:, own].repeat(groups, beside),
            "use_cache": early > 0,
            "logits_to_keep": per_segment.flatten(),
        }
        pack: dict[str, Any] = {
            "groups": groups,
            "segments": beside,
            "columns": columns,
            "early": early,
            "start": start,
            "prefix_mask": Layout.of(tokens, self._common).whole(tokens.attention_mask)[:, :early],
            "new_mask": tokens.attention_mask[:, own],
        }
        if self.bundle.forgets(shape.columns):
            masks = dict(arch.window_masks or ())
            if "" in masks:
                pack["window"] = masks[""]
            else:
                pack |= {"windows": masks, "inner": arch.family.layers.rpartition(".")[0]}
        return Chunk(
            kind="forward",
            inputs=inputs,
            steps=steps.ordered(),
            nodes=outline.nodes,
            examples=self.examples,
            bytes=outline.bytes,
            cost=outline.cost,
            layers=outline.layers,
            score_name=self.bundle.run.score_name,
            score=self._score(batch, groups, beside),
            prefix=self.key,
            pack=pack,
            skip_paths=tuple(f"{arch.family.layers}.{i}" for i in range(start)),
        )

    def _score(self, batch: Slice, groups: int, beside: int) -> dict[str, Any]:
        """Targets in the order of the packed rows, and the permutation back to the order of nodes."""
        n, tokens, score = len(batch), batch.batch, self.bundle.run.declared
        example = torch.arange(n).repeat_interleave(beside).repeat(groups)
        order = torch.arange(groups * n * beside).reshape(groups, n, beside).transpose(1, 2).flatten()
        return {
            "arguments": 4 if score is None else score.arguments,
            "targets": tokens.targets[example],
            "mask": tokens.target_mask[:, tokens.n_prompt :][example],
            "base_rows": None,
            "order": order if beside > 1 else None,
        }
