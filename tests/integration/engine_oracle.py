"""The plain-PyTorch oracle: the same edits by forward hooks written out by hand, one row at a time, no batching.

It knows module names of the two families, and nothing of bkdinterp's engine.
"""

import torch

NAMES = {
    "llama": dict(
        block="model.layers.{}",
        attn="self_attn",
        proj="self_attn.o_proj",
        ln1="input_layernorm",
        ln2="post_attention_layernorm",
        mlp="mlp",
        down="mlp.down_proj",
    ),
    "gpt2": dict(block="transformer.h.{}", attn="attn", proj="attn.c_proj", ln1="ln_1", ln2="ln_2", mlp="mlp", down="mlp.c_proj"),
}


def place(kind, layer, component):
    n = NAMES[kind]
    block = n["block"].format(layer)
    return {
        "resid_pre": (block, "pre"),
        "attn_in": (f"{block}.{n['ln1']}", "post"),
        "z": (f"{block}.{n['proj']}", "pre"),
        "attn_proj": (f"{block}.{n['proj']}", "post"),
        "attn_out": (f"{block}.{n['attn']}", "post"),
        "mlp_in": (f"{block}.{n['ln2']}", "post"),
        "mlp_act": (f"{block}.{n['down']}", "pre"),
        "mlp_out": (f"{block}.{n['mlp']}", "post"),
        "resid_post": (block, "post"),
    }[component]


class Hooks:
    """Context manager: edits = list of (layer, component, fn) with fn(x) -> new x on [1 pos d]; reads = list of (layer, component)."""

    def __init__(self, module, kind, edits=(), reads=()):
        self.module, self.kind, self.edits, self.reads = module, kind, list(edits), list(reads)
        self.values, self.handles = {}, []

    def __enter__(self):
        # resid_mid is the sum of the block's input and the attention output: it needs a look at both.
        for layer, component, fn in self.edits:
            self._add(layer, component, fn)
        for layer, component in self.reads:
            self._add(layer, component, None)
        return self

    def _add(self, layer, component, fn):
        if component == "resid_mid":
            seen = {}
            block = self.module.get_submodule(NAMES[self.kind]["block"].format(layer))
            attn = self.module.get_submodule(place(self.kind, layer, "attn_out")[0])

            def before(_, args, kwargs):
                seen["x"] = args[0] if args else kwargs["hidden_states"]

            def after(_, __, out):
                mid = seen["x"] + out[0]
                if fn is None:
                    self.values[layer, component] = mid.detach().clone()
                    return None
                return (fn(mid) - seen["x"], *out[1:])

            self.handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            self.handles.append(attn.register_forward_hook(after))
            return
        path, when = place(self.kind, layer, component)
        sub = self.module.get_submodule(path)

        def use(x):
            if fn is None:
                self.values[layer, component] = x.detach().clone()
                return x
            return fn(x.clone())

        if when == "pre":

            def pre(_, args):
                return (use(args[0]), *args[1:])

            self.handles.append(sub.register_forward_pre_hook(pre))
        else:

            def post(_, __, out):
                if isinstance(out, tuple):
                    return (use(out[0]), *out[1:])
                return use(out)

            self.handles.append(sub.register_forward_hook(post))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def logits(module, ids, kind, edits=(), reads=()):
    """Logits [pos d_vocab] and read values of one unpadded row."""
    with torch.no_grad(), Hooks(module, kind, edits, reads) as hooks:
        out = module(torch.tensor([ids])).logits[0]
    return out, {k: v[0] for k, v in hooks.values.items()}


def target_logprobs(module, prompt_ids, target_ids, kind, edits=()):
    """Log-probability of each target token, teacher forced."""
    out, _ = logits(module, [*prompt_ids, *target_ids], kind, edits)
    rows = out[len(prompt_ids) - 1 : -1].log_softmax(-1)
    return rows[torch.arange(len(target_ids)), torch.tensor(target_ids)]


def greedy(module, prompt_ids, n, kind, edits_at, end=None):
    """Greedy decoding without any cache: the whole sequence is run again for each token. edits_at(n_prompt) -> edits."""
    ids = list(prompt_ids)
    for _ in range(n):
        out, _ = logits(module, ids, kind, edits_at)
        ids.append(int(out[-1].argmax()))
        if ids[-1] == end:
            break
    return ids[len(prompt_ids) :]
