"""The only code that runs inside a trace: executes one chunk in one forward pass and returns plain tensors.

It depends only on torch, without decorators or imports of the package, because nnsight sends functions as source, drops
decorators on the way, and a server does not have this package. A chunk is a dict of tensors, ints, lists and module paths:

    steps   in forward order, each one location of the module tree:
            path, io ("input" | "output"), item (None or index into a tuple output),
            save (key or None): keep the final value for a later step of this chunk,
            add (key or None): the activation is this location's tensor plus the saved one (resid_mid),
            ops: the edits, reads: what to return
    op      rows, cols (paired index tensors; rows None = every row at the columns `cols`, cols None = everywhere),
            channels ([start, stop] or None), keep, value ([d], [token d] or None), read, U, V, fn
    read    key, rows, cols, channels, heads (None or channel ranges whose share of a projection is wanted), reduce
    skip_paths   blocks that are not run; the kept residual stream replaces the output of the last one
    keep    the unedited run of a shared prefix: layers whose incoming residual streams are kept
    common  for each row, the row of a start (kind "start") that holds the keys and values of its first tokens; once the
            unedited run has taken it, it is gone
    pack    rows that reuse a kept run, laid out as segments: batch row g * n + i holds, for example i, the `segments`
            copies of group g one after another, each with the columns from `early` on; no copy sees another's tokens;
            plain (optional): hand over an ordinary cache; window (optional): number of tokens that all layers see;
            windows (optional): number of tokens that each kind of layer sees (0: all); the module at `inner` takes a dict
            with a mask for each kind
    whole_cache   (optional) keep all keys and values, also those outside a layer's window
    score   targets, mask, base_rows, order (index tensors or None), arguments (3, or 4 with base): see metrics/scores.py

What later chunks need (keys and values, residual streams) is kept in `state`, a dict of the executor; its "whole_cache"
makes an empty cache whose layers keep everything, and its "cache_name" is what the model's forward calls its cache. All
executors run the same loop:

    while chunk is not None:
        with model.trace(**prepare(chunk, state)):
            out = execute(model, chunk, score, state)
        chunk = advance(chunk, out, state)
"""

from __future__ import annotations

import copy
import functools

import torch

# Most logits that a score gets at a time (its temporaries are a few times as large).
PIECE = 2**23
# Copying keys and values pays off if at most this share of the rows still decodes.
STILL_GOING = 0.75


def prepare(chunk, state):
    """The keyword arguments of a chunk's forward pass; called outside the trace."""
    inputs = dict(chunk["inputs"])
    cache_name = state.get("cache_name", "past_key_values")
    if chunk["kind"] == "step":
        inputs[cache_name] = state["past"]
    if chunk.get("common") is not None:
        inputs[cache_name] = chosen_cache(state["common"], chunk["common"])
    if chunk.get("whole_cache"):
        inputs[cache_name] = state["whole_cache"]()
    pack = chunk.get("pack")
    if pack is not None:
        inputs["attention_mask"] = pack_mask(pack, state["like"], pack.get("window", 0))
        if pack["early"] > 0:
            inputs[cache_name] = joined_cache(pack, state["cache"])
    return inputs


def execute(model, chunk, score=None, state=None):
    """Run one chunk inside an open trace of ``model``.

    Args:
        model: the nnsight model, or any envoy with the same tree below it.
        chunk: see the module docstring.
        score: plain function (logits, targets, mask, base) -> [row], or None.
        state: what earlier chunks kept for this one.

    Returns:
        dict with "reads" (key -> tensor) and, if asked for, "scores", "next" (greedy next token per row), "logits",
        "cache" (the key-value cache) and "kept" (layer -> residual stream).
    """
    saved = {}
    reads = {}
    state = {} if state is None else state
    if chunk.get("pack") is not None and "windows" in chunk["pack"]:
        set_masks(model, chunk["pack"], state["like"])
    for path in chunk.get("skip_paths", []):
        pack = chunk["pack"]
        kept = state["kept"][str(pack["start"])]
        module_at(model, path).skip(kept.repeat(pack["groups"], pack["segments"], 1))
    for step in chunk["steps"]:
        run_step(model, step, saved, reads)
    out = {"reads": reads}
    if chunk.get("keep") is not None:
        out["kept"] = {key: reads.pop(key) for key in chunk["keep"]["layers"]}
    if chunk.get("score") is not None or chunk.get("want"):
        finish(model.output, chunk, score, out)
    return out


def advance(chunk, out, state):
    """Move what later chunks need from a chunk's output to ``state``; returns the next decode step, or None.

    The output of a generation's last step becomes that of the whole generation, with "tokens" [row token].
    """
    if chunk["kind"] == "base":
        state["cache"] = out.pop("cache", None)
        state.pop("common", None)
        if state["cache"] is not None:
            check_cache(state["cache"], chunk["inputs"]["attention_mask"].shape[1])
        state["kept"] = out.pop("kept")
        state["like"] = out.pop("like")
    if chunk["kind"] == "start":
        state["common"] = out.pop("cache")
        check_cache(state["common"], chunk["inputs"]["attention_mask"].shape[1])
    if chunk["kind"] in ("generate", "step"):
        return next_step(chunk, out, state)
    return None


def next_step(chunk, out, state):
    """Greedy decoding: the step for one more token, or None if all rows have ended."""
    decode = chunk["decode"]
    ends = torch.tensor(decode["ends"], dtype=torch.long)
    token = out.pop("next").cpu()
    if chunk["kind"] == "generate":
        state["reads"], state["tokens"] = out["reads"], []
        state["rows"], state["done"], state["n"] = (
            torch.arange(len(token)),
            torch.zeros_like(token).bool(),
            len(token),
        )
    token = token.masked_fill(state["done"], decode["pad"])
    whole = torch.full((state["n"],), decode["pad"], dtype=torch.long)
    whole[state["rows"]] = token
    state["tokens"].append(whole)
    state["done"] = state["done"] | torch.isin(token, ends)
    cache, mask = out.pop("cache"), chunk["inputs"]["attention_mask"]
    check_cache(cache, mask.shape[1])
    if bool(state["done"].all()) or len(state["tokens"]) == decode["n_tokens"]:
        out["reads"], out["tokens"] = state.pop("reads"), torch.stack(state.pop("tokens"), dim=1)
        state.pop("past", None)
        return None
    positions = chunk["inputs"]["position_ids"][:, -1:] + 1
    going = ~state["done"]
    if int(going.sum()) <= STILL_GOING * len(going):
        # Drop rows that have ended.
        cache = chosen_cache(cache, going.nonzero()[:, 0])
        mask, positions, token = mask[going], positions[going], token[going]
        state["rows"], state["done"] = state["rows"][going], state["done"][going]
        decode = decode | {"steps": [kept_rows(step, going) for step in decode["steps"]]}
    state["past"] = cache
    inputs = {
        "input_ids": token[:, None],
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
        "position_ids": positions,
        "use_cache": True,
    }
    step = {"kind": "step", "inputs": inputs, "steps": decode["steps"], "decode": decode}
    return step | {"want": ["next", "cache"], "score": None}


def kept_rows(step, going):
    """The step restricted to some rows of its batch, renumbered."""
    number = going.cumsum(0) - 1
    ops = []
    for op in step["ops"]:
        stay = going[op["rows"]]
        value = op["value"]
        if value is not None and value.ndim > 1:
            value = value[stay]
        ops.append(op | {"rows": number[op["rows"]][stay], "cols": op["cols"][stay], "value": value})
    return step | {"ops": ops}


def check_cache(cache, length):
    """Raise if keys and values are missing: a sandboxed server loses a layer's when the input of its block is read."""
    for number, layer in enumerate(cache.layers):
        short = layer.keys is None or (
            layer.keys.shape[-2] < length and not getattr(layer, "is_sliding", False)
        )
        if short:
            raise RuntimeError(
                f"The keys and values of layer {number} were lost. On this server, edits and reads of the first "
                "block's input (L0.resid_pre, L0.resid_mid) do not go together with generation."
            )


def set_masks(model, pack, like):
    """Give the inner module a mask for each kind of layer, because nnsight accepts only one tensor for the whole model."""
    inner = module_at(model, pack["inner"])
    args, kwargs = inner.inputs
    masks = {name: pack_mask(pack, like, window) for name, window in pack["windows"].items()}
    inner.inputs = (args, {**kwargs, "attention_mask": masks})


def pack_mask(pack, like, window=0):
    """Additive causal attention mask [row 1 query key] of packed rows: they see the shared prefix and their own segment."""
    n_columns, n_segments = pack["columns"], pack["segments"]
    causal = torch.ones(n_columns, n_columns, dtype=torch.bool).tril()
    past = pack["prefix_mask"].bool()[:, None].expand(-1, n_columns, -1)
    if window:
        # Column k of the prefix lies (early - k + c) before column c of a segment.
        causal = causal.triu(1 - window)
        back = torch.arange(n_columns)[:, None] + pack["early"] - torch.arange(pack["early"])
        past = past & (back < window)
    own = torch.block_diag(*[causal] * n_segments).bool()
    new = pack["new_mask"].bool().repeat(1, n_segments)
    seen = torch.cat([past.repeat(1, n_segments, 1), own[None] & new[:, None]], dim=-1)
    # The most negative number instead of -inf, so that a padding token, which sees nothing, does not become NaN.
    mask = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, torch.finfo(like.dtype).min)
    return mask.repeat(pack["groups"], 1, 1)[:, None].to(like.device)


def chosen_cache(cache, rows):
    """Copies of the chosen rows of a cache, in this order; a row may be chosen several times."""
    new = copied_cache(cache)
    for layer in new.layers:
        layer.keys = layer.keys[rows.to(layer.keys.device)]
        layer.values = layer.values[rows.to(layer.values.device)]
    return new


def copied_cache(cache):
    """Another cache with the same tensors, whose layers can be given new ones."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new


def joined_cache(pack, cache):
    """The kept run's keys and values up to ``early``, as views; a forward pass reads them and stores nothing in them.

    If the forward runs in another process (a server's sandbox), functions cannot be sent there. Then it is a plain cache
    with copies, dropped afterwards.
    """
    new = copied_cache(cache)
    for layer in new.layers:
        layer.keys = layer.keys[:, :, : pack["early"]]
        layer.values = layer.values[:, :, : pack["early"]]
        if pack.get("plain"):
            layer.keys, layer.values = (x.repeat(pack["groups"], 1, 1, 1) for x in (layer.keys, layer.values))
        else:
            layer.update = functools.partial(join, layer.keys, layer.values, pack["groups"])
    return new


def join(past_keys, past_values, groups, keys, values, *args, **kwargs):
    """The result of a cache layer's update: the shared past followed by the new tokens."""
    if groups > 1:
        past_keys, past_values = past_keys.repeat(groups, 1, 1, 1), past_values.repeat(groups, 1, 1, 1)
    return torch.cat([past_keys, keys], dim=-2), torch.cat([past_values, values], dim=-2)


def finish(output, chunk, score, out):
    """Compute everything that comes from the model's output: scores, the greedy next token, logits, cache."""
    want = chunk.get("want", [])
    if chunk.get("score") is not None:
        out["scores"] = score_rows(output.logits, chunk["score"], score)
    if "next" in want:
        out["next"] = output.logits[:, -1].argmax(dim=-1)
    if "logits" in want:
        out["logits"] = output.logits
    if "cache" in want:
        out["cache"] = cache_of(output)
    if "like" in want:
        out["like"] = output.logits[:1, :1, :1].clone()


def cache_of(output):
    """The keys and values of an output; transformers 5.24 renames ``past_key_values`` to ``cache``."""
    return output.cache if hasattr(output, "cache") else output.past_key_values


def score_rows(logits, part, score):
    """One score per row, computed for some rows at a time, because a score's temporaries are as large as its logits."""
    targets, mask = part["targets"].to(logits.device), part["mask"].to(logits.device)
    n_rows, n_targets = targets.shape
    # Packed rows are one after another in the sequence; the plain layout may have kept one more column.
    logits = logits.reshape(n_rows, -1, logits.shape[-1])[:, :n_targets]
    at_once = max(1, PIECE // max(1, n_targets * logits.shape[-1]))
    scores = []
    for start in range(0, n_rows, at_once):
        rows = slice(start, start + at_once)
        base = None if part["base_rows"] is None else logits[part["base_rows"][rows].to(logits.device)]
        wanted = targets[rows]
        value = score(*(logits[rows], wanted, mask[rows], base)[: part["arguments"]])
        if getattr(value, "shape", None) != wanted.shape[:1]:
            raise ValueError(
                f"The score gave {getattr(value, 'shape', type(value))} for {len(wanted)} rows, not one number each."
            )
        scores.append(value)
    scores = torch.cat(scores)
    return scores if part["order"] is None else scores[part["order"].to(scores.device)]


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
            # The sum itself is not a module's output, so the tensor added to it is changed instead.
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
    """Row and column indices that an op or read selects, on the device of x."""
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
    # Do not multiply by 0: a NaN or infinity that is replaced must vanish.
    new = torch.zeros_like(old) if op["keep"] == 0 else old if op["keep"] == 1 else old * op["keep"]
    if op["value"] is not None:
        new = new + op["value"].to(x.device, x.dtype)
    if op["read"] is not None:
        source = saved[op["read"]][rows, cols]
        new = new + (source @ op["V"].to(x.device, x.dtype)) @ op["U"].to(x.device, x.dtype).T
    x[rows, cols, start:stop] = new


def read_value(envoy, x, read):
    """The selected tokens [token d]; summed over tokens (in float64) for "mean"; every column from `cols` on for "whole"."""
    if read["reduce"] == "whole":
        return x[:, read["cols"] :].clone()
    rows, cols = locate(read, x)
    if read["heads"] is not None:
        # Here x is the projection's input: keep only these heads, and subtract the bias.
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
