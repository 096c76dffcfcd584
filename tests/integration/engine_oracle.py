"""The plain-PyTorch oracle: the same edits by forward hooks written out by hand, one row at a time, no batching.

It knows module names of the families, and nothing of bkdinterp's engine. ``attn_out`` and ``mlp_out`` are the modules
whose output is added to the stream.
"""

from inspect import signature

import torch

LLAMA = {
    "block": "model.layers.{}",
    "attn": "self_attn",
    "proj": "self_attn.o_proj",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "mlp": "mlp",
    "down": "mlp.down_proj",
}
GEMMA = LLAMA | {
    "attn": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "mlp": "post_feedforward_layernorm",
}
NAMES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt_neox": {
        "block": "gpt_neox.layers.{}",
        "attn": "attention",
        "proj": "attention.dense",
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        "mlp": "mlp",
        "down": "mlp.dense_4h_to_h",
    },
    "gpt2": {
        "block": "transformer.h.{}",
        "attn": "attn",
        "proj": "attn.c_proj",
        "ln1": "ln_1",
        "ln2": "ln_2",
        "mlp": "mlp",
        "down": "mlp.c_proj",
    },
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
    """Context manager: edits (layer, component, fn) with fn(x) -> new x on [1 pos d]; reads (layer, component)."""

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
                mid = seen["x"] + (out[0] if isinstance(out, tuple) else out)
                if fn is None:
                    self.values[layer, component] = mid.detach().clone()
                    return None
                new = fn(mid) - seen["x"]
                return (new, *out[1:]) if isinstance(out, tuple) else new

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


WIDE_HEADS = {"d_model": 16, "z": 24, "head": 6, "mlp_act": 24}
EVEN_HEADS = {"d_model": 16, "z": 16, "head": 4, "mlp_act": 24}
SIZES = {
    "llama": WIDE_HEADS,
    "mistral": WIDE_HEADS,
    "qwen2": EVEN_HEADS,
    "qwen3": WIDE_HEADS,
    "gemma2": WIDE_HEADS,
    "gemma3_text": WIDE_HEADS,
    "gpt_neox": EVEN_HEADS,
    "gpt2": {"d_model": 16, "z": 16, "head": 4, "mlp_act": 64},
}


def width(kind, component):
    """Channels of a component of the tiny models; "head" is one head of z."""
    return SIZES[kind].get(component, SIZES[kind]["d_model"])


class Row:
    """One prompt and its target as token lists, made without bkdinterp's prompt builder."""

    def __init__(self, tokenizer, text, target=None):
        words = f"<s> user : {text} <e> <s> assistant :".split()
        self.prompt = tokenizer(" ".join(words), add_special_tokens=False).input_ids
        assert len(self.prompt) == len(words)  # one token a word
        self.target = [] if target is None else tokenizer(f"{target} <e>", add_special_tokens=False).input_ids
        self.trigger = [k for k, word in enumerate(words) if word in ("zeta", "omega")]

    @property
    def ids(self):
        return [*self.prompt, *self.target]

    def columns(self, prompt, generated=False):
        """Columns of the unpadded row that Where(prompt, generated) names."""
        n = len(self.prompt)
        named = {"last": [n - 1], "all": list(range(n)), "trigger": self.trigger, "none": []}
        chosen = named[prompt] if isinstance(prompt, str) else sorted(i % n for i in prompt)
        return chosen + (list(range(n, n + len(self.target))) if generated else [])


def rows_of(tokenizer, prompts):
    targets = prompts.target or [None] * len(prompts.text)
    return [Row(tokenizer, text, target) for text, target in zip(prompts.text, targets, strict=True)]


def at(columns, new, channels=slice(None)):
    """Hook function: x[:, columns, channels] becomes new(old), old and new of shape [token d]."""

    def fn(x):
        x = x.clone()
        if columns:
            x[0, columns, channels] = new(x[0, columns, channels])
        return x

    return fn


def head_slice(kind, head):
    d = SIZES[kind]["head"]
    return slice(head * d, (head + 1) * d)


def mean_logprob(module, row, kind, edits=()):
    return float(target_logprobs(module, row.prompt, row.target, kind, edits).mean())


def mean_logprobs(module, rows, kind, edits_of=lambda i, row: ()):
    return torch.tensor(
        [mean_logprob(module, row, kind, edits_of(i, row)) for i, row in enumerate(rows)], dtype=torch.float64
    )


def forced(module, row, kind, edits_of_columns):
    """Log-probability of each target token by forcing it: prefill with a cache, then one forward per token.

    ``edits_of_columns(step, n)`` gives the edits of forward number ``step`` (0 = prefill), which sees ``n`` columns.
    """
    out = []
    with torch.no_grad():
        with Hooks(module, kind, edits_of_columns(0, len(row.prompt))):
            result = module(torch.tensor([row.prompt]), use_cache=True)
        for step, token in enumerate(row.target, 1):
            out.append(result.logits[0, -1].log_softmax(-1)[token])
            if step == len(row.target):
                break
            with Hooks(module, kind, edits_of_columns(step, 1)):
                result = one_more(module, token, result)
    return torch.stack(out)


def one_more(module, token, result):
    """The next decode step; transformers 5.24 renames ``past_key_values`` to ``cache``."""
    new = "cache" in signature(module.forward).parameters
    past = result.cache if new else result.past_key_values
    return module(torch.tensor([[token]]), use_cache=True, **{"cache" if new else "past_key_values": past})
