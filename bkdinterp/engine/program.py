"""The only code that runs inside a trace: executes one chunk, one forward pass, and returns plain tensors.

It stands alone on purpose (torch only, no decorators, no import of the package): nnsight ships functions by their
source, drops decorators on the way, and a server knows nothing of this package. A chunk is a dict of tensors,
ints, lists and module paths:

    steps   in forward order, each one location of the module tree:
            path, io ("input" | "output"), item (None or index into a tuple output),
            save (key or None): keep the final value for a later step of this chunk,
            add (key or None): the activation is this location's tensor plus the saved one (resid_mid),
            ops: the edits, reads: what to return
    op      rows, cols (paired index tensors; rows None = every row at the columns `cols`, cols None = everywhere),
            channels ([start, stop] or None), keep, value ([d], [token d] or None), read, U, V, fn
    read    key, rows, cols, channels, heads (None or channel ranges whose share of a projection is wanted), reduce
    skip_paths, skip_value   blocks that are not run, and the residual stream that stands in for their output
    score   targets, mask, base_rows (None or an index tensor): see metrics/scores.py
"""

from __future__ import annotations

import torch


def execute(model, chunk, score=None):
    """Run one chunk inside an open trace of ``model``.

    Args:
        model: the nnsight model (or any envoy with the same tree below it).
        chunk: see the module docstring.
        score: plain function (logits, targets, mask, base) -> [row], or None.

    Returns:
        dict with "reads" (key -> tensor), and where asked "scores", "next" (greedy next token per row), "logits",
        "cache" (the key-value cache).
    """
    saved = {}
    reads = {}
    for path in chunk.get("skip_paths", []):
        module_at(model, path).skip(chunk["skip_value"])
    for step in chunk["steps"]:
        run_step(model, step, saved, reads)
    out = {"reads": reads}
    if chunk.get("score") is not None or chunk.get("want"):
        output = model.output
        finish(output, chunk, score, out)
    return out


def finish(output, chunk, score, out):
    """What is computed from the model's output: scores, the greedy next token, logits, cache."""
    want = chunk.get("want", [])
    if chunk.get("score") is not None:
        part = chunk["score"]
        device = output.logits.device
        targets = part["targets"].to(device)
        mask = part["mask"].to(device)
        # logits_to_keep left the columns that predict the targets, plus the last one.
        logits = output.logits[:, -targets.shape[1] - 1 : -1]
        base = None
        if part.get("base_rows") is not None:
            base = logits[part["base_rows"].to(device)]
        out["scores"] = score(logits, targets, mask, base)
    if "next" in want:
        out["next"] = output.logits[:, -1].argmax(dim=-1)
    if "logits" in want:
        out["logits"] = output.logits
    if "cache" in want:
        out["cache"] = output.past_key_values


def module_at(model, path):
    """The envoy at a dotted path."""
    for part in path.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def run_step(model, step, saved, reads):
    """Read, edit and write back one location."""
    envoy = module_at(model, step["path"])
    whole = envoy.input if step["io"] == "input" else envoy.output
    raw = whole if step["item"] is None else whole[step["item"]]
    x = raw
    if step.get("add") is not None:
        x = saved[step["add"]] + raw
    if step["ops"]:
        edited = x.clone()
        for op in step["ops"]:
            apply_op(edited, op, saved)
        new = edited
        if step.get("add") is not None:
            # The sum itself is no module's output: change what is added to it instead, and nothing elsewhere.
            new = torch.where(edited == x, raw, edited - saved[step["add"]])
        x = edited
        if step["item"] is not None:
            new = (*whole[: step["item"]], new, *whole[step["item"] + 1 :])
        if step["io"] == "input":
            envoy.input = new
        else:
            envoy.output = new
    if step.get("save") is not None:
        saved[step["save"]] = x
    for read in step["reads"]:
        reads[read["key"]] = read_value(envoy, x, read)


def locate(item, x):
    """Row and column indices that an op or read selects, on x's device."""
    rows, cols = item["rows"], item["cols"]
    if rows is None:
        n_rows, n_cols = x.shape[0], x.shape[1]
        # Indexing a range: a position outside the batch raises instead of wrapping around.
        columns = list(range(n_cols)) if cols is None else [range(n_cols)[c] for c in cols]
        rows = torch.arange(n_rows).repeat_interleave(len(columns))
        cols = torch.tensor(columns).repeat(n_rows)
    return rows.to(x.device), cols.to(x.device)


def apply_op(x, op, saved):
    """Edit the selected tokens of x in place: keep * x + value + U V^T read."""
    rows, cols = locate(op, x)
    start, stop = op["channels"] or (0, x.shape[-1])
    old = x[rows, cols, start:stop]
    if op.get("fn") is not None:
        x[rows, cols, start:stop] = op["fn"](old)
        return
    new = old if op["keep"] else torch.zeros_like(old)
    if op["value"] is not None:
        new = new + op["value"].to(x.device, x.dtype)
    if op["read"] is not None:
        source = saved[op["read"]][rows, cols]
        new = new + (source @ op["V"].to(x.device, x.dtype)) @ op["U"].to(x.device, x.dtype).T
    x[rows, cols, start:stop] = new


def read_value(envoy, x, read):
    """The selected tokens [token d]; summed over tokens (in float64) for "mean"; the whole tensor for "whole"."""
    if read["reduce"] == "whole":
        return x.clone()
    rows, cols = locate(read, x)
    if read["heads"] is not None:
        # x is the projection's input here: keep these heads only, and take away the bias.
        chosen = x[rows, cols]
        part = torch.zeros_like(chosen)
        for start, stop in read["heads"]:
            part[:, start:stop] = chosen[:, start:stop]
        value = envoy(part) - envoy(torch.zeros_like(part))
    else:
        start, stop = read["channels"] or (0, x.shape[-1])
        value = x[rows, cols, start:stop]
    if read["reduce"] == "mean":
        return value.double().sum(dim=0)
    return value.clone()
