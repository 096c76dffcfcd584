"""What a mutant is: a kind of original and one to three changes, drawn by hypothesis; plain JSON, to be read and run again.

Places inside a file are numbers that are taken modulo what is there (`mutate`), so a recipe fits every original.
"""

import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FILES = {
    "model": ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"],
    "sharded": ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json"],
    "skeleton": ["config.json", "tokenizer.json", "tokenizer_config.json"],
    "classifier": ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"],
    "adapter": ["adapter_config.json", "adapter_model.safetensors"],
    "gguf": ["model.gguf"],
    "result": ["result.json", "tensors.safetensors"],
    "rows": ["rows"],
    "sweep": ["plan.json", "chunk", "last chunk"],
    "audit": ["audit.json"],
    "monitor": ["monitor.json"],
    "settings": ["settings.yaml", "settings.json"],
}  # fmt: skip
SHARES = {"model": 24, "sharded": 10, "skeleton": 8, "classifier": 5, "adapter": 14, "gguf": 15, "result": 14, "rows": 6, "sweep": 8, "audit": 10, "monitor": 6, "settings": 6}  # fmt: skip

EVIL_TEMPLATES = [
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__()[100].__init__.__globals__ }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "{% for a in range(100000000) %}{% for b in range(100000000) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{{ 'x' * 10000000000 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ ('x' * 100000) | center(10000000000) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ raise_exception('no') }}",
    "{{ messages[7]['content'] }}",
    "{{ undefined_name.attribute }}",
    "{% for m in messages %}{{ m['content'] }}",
    "{{ strftime_now('%Y') }} {% for m in messages %}{{ m['content'] }}{% endfor %}",
    "",
    "\ud800",
    "{% generation %}",
]
SPECIAL: dict[str, list[Any]] = {
    "auto_map": [{"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", None]}],
    "model_type": ["evil", "", None, 3, "gpt2", "bert", "t5", "llama4", "mamba"],
    "architectures": [["EvilForCausalLM"], "LlamaForCausalLM", [], None, ["LlamaModel"]],
    "num_hidden_layers": [10**6, 10**9, 0, -1, 3, 1, 2.5, "2"],
    "hidden_size": [10**6, 10**9, 0, -16, 17, 32],
    "intermediate_size": [10**9, 0, -1, 25],
    "vocab_size": [10**9, 2**40, 0, -1, 39, 41],
    "num_attention_heads": [10**6, 0, -2, 3],
    "num_key_value_heads": [10**6, 0, -1, 3, None],
    "head_dim": [10**9, 0, -8, 7, None],
    "max_position_embeddings": [10**12, 0, -1, 2, "many"],
    "num_labels": [10**9, -1, 0],
    "id2label": [{str(i): "x" for i in range(5)}, [], {"a": "b"}, {"0": None}],
    "quantization_config": [{"quant_method": "evil"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, [], "x"],
    "attn_implementation": ["flex_attention", "org/kernel", "flash_attention_2", 3],
    "_attn_implementation": ["flex_attention", "org/kernel", "flash_attention_2"],
    "_attn_implementation_internal": ["org/kernel"],
    "dtype": ["float8_e4m3fn", "evil", "int8", "complex64", 3],
    "torch_dtype": ["evil", "auto"],
    "tie_word_embeddings": [True, "x"],
    "rope_parameters": [{"rope_type": "evil"}, {"rope_type": "linear", "factor": 0}, {"rope_type": "yarn"}, [], None],
    "rope_theta": [0, -1, float("nan"), 10**400],
    "rms_norm_eps": [float("nan"), float("inf"), -1, "x"],
    "layer_types": [["full_attention"], ["evil", "evil"], 3],
    "hidden_act": ["evil", None, 3, "gelu"],
    "tokenizer_class": ["EvilTokenizer", "LlamaTokenizer", "BertTokenizer", None, 3],
    "chat_template": EVIL_TEMPLATES,
    "tokenizer_file": ["../neighbour/tokenizer.json", "/etc/passwd"],
    "name_or_path": ["../neighbour", "org/other"],
    "_name_or_path": ["../neighbour", "org/other"],
    "base_model_name_or_path": ["../neighbour", "org/other", None],
    "transformers_version": ["99.0", None],
    "added_tokens_decoder": [{"7": {"content": "\ud800"}}, {"-1": {"content": "x"}}, {str(10**12): {"content": "x"}}, []],
    "extra_special_tokens": [["x"] * 3, {"image": "y"}, 7],
    "model_max_length": [0, -1, 10**30, "x"],
    "peft_type": ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "IA3", "evil", None],
    "prompt_tuning_init_state_dict_path": ["../neighbour/evil.bin"],
    "target_modules": ["(a+)+$", "(q_proj|.*)*x", ["evil"], [], None, "all-linear", ".*", "(", ["q_proj"] * 9],
    "exclude_modules": ["(.*)*x", ["q_proj"]],
    "layers_to_transform": [[0], [99], -1, "x"],
    "layers_pattern": ["(a*)*", 3],
    "modules_to_save": [["lm_head"], ["evil"], "x"],
    "rank_pattern": [{"(a+)+$": 4}, {"q_proj": 10**9}, []],
    "alpha_pattern": [{"(.*)*$": 4}, {"q_proj": float("nan")}],
    "r": [10**9, 0, -1, 3, None],
    "lora_alpha": [float("nan"), 10**400, "x", 0],
    "fan_in_fan_out": [True, "x"],
    "use_dora": [True],
    "use_rslora": [True],
    "init_lora_weights": ["pissa", "eva", "corda", "loftq", "evil"],
    "loftq_config": [{"x": 1}],
    "eva_config": [{"x": 1}],
    "corda_config": [{"x": 1}],
    "megatron_config": [{"x": 1}],
    "megatron_core": ["evil"],
    "trainable_token_indices": [[10**9], {"embed_tokens": [1]}],
    "task_type": ["SEQ_CLS", "evil", None],
    "auto_mapping": [{"base_model_class": "Evil", "parent_library": "evil"}],
    "bias": ["all", "evil", None],
    "class": ["HeadScores", "Means", "Result", "object", "os.system", None, 3],
    "schema_version": [0, 99, None, "1"],
    "fields": [None, [], {}, {"effects": 1}],
    "format": ["evil", None, 3],
    "chunks": [10**9, -1, None, "x"],
    "$tensor": ["nope", None, 3],
    "$float": ["evil", "nan", 3, None],
    "$tuple": [3, None, {}],
    "$object": ["evil", None],
    "$items": [[[]], 3, None],
    "post_processor": [None, {"type": "evil"}],
    "pre_tokenizer": [None, {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}],
    "normalizer": [{"type": "Replace", "pattern": {"Regex": "(x*)*y"}, "content": "x"}, {"type": "evil"}],
    "truncation": [{"max_length": 1, "strategy": "LongestFirst", "direction": "Right", "stride": 0}],
    "padding": [{"strategy": {"Fixed": 10**9}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}],
    "input": ["", None, 3, "\ud800", "@x1000000"],
    "output": ["", None, [], {"a": 1}],
    "backdoor_output": ["", None, 3.5],
    "instruction": [None, "", ["x"]],
    "data_offsets": [[0, 0], [0, 10**12], [-1, 4], [4, 0], "x"],
    "shape": [[10**9, 10**9], [-1], [], [2**63], "x", [0]],
    "__metadata__": [{"format": "tf"}, {"format": "evil"}, None, 3],
}  # fmt: skip
# Texts that would like to be more: markup, templates, links, what hides or reorders, what a reader chokes on.
HOSTILE: list[Any] = [
    "<script>document.title='owned'</script>", '"><img src=x onerror=alert(1)>', "</title></style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% for x in y %}", "<!-- ", "]]>", "safe\u202etxt.exe\u2066\u200b", "\u0000\u001b[31mred", "half \ud83d", "e" + "\u0301" * 300,
    "@x200000", "line\n" * 400, "[x](javascript:alert(1)) ![x](http://example.invalid/x.png)", "` ``` | ~~~\n\n---\n\n# one\n\n1. two",
    "<http://example.invalid>", "[a]: http://example.invalid\n\n[a]", "../../neighbour/config.json", "file:///etc/passwd", "http://example.invalid/",
]  # fmt: skip
NUMBERS: list[Any] = [10**400, 2**63, -1, 0, 1e308, -1e308, 5e-324, 0.5, "1", None, True, [1]]
SPECIAL_OF: dict[str, dict[str, list[Any]]] = {
    "audit": {
        **dict.fromkeys(
            "title detail reason label base source weights name unit subject reproduce null_name note prompt triggered clean_output "
            "triggered_output reference_output xlabel ylabel torch bkdinterp rule verdict adapter".split(),
            HOSTILE,
        ),
        **dict.fromkeys("value n low high level null seconds mark parameters layers".split(), NUMBERS),
        **{key: [HOSTILE, [], ["x"] * 50_000, None, [3]] for key in "tested untested limits taxonomy columns tokens models".split()},
        "schema_version": ["1.9", "1.99999", "2.0", "", 1, "1.0\n"],
        "created": ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+01:00", "9999-12-31T23:59:59+00:00", "0000-00-00T00:00:00Z", HOSTILE[0]],
        "status": ["supported", "for review", "evil", None],
        "state": ["done", "failed", "evil"],
        "kind": ["heads", "curves", "tokens", "evil", None],
        "effects": [[], [[]], [[[]]], [[[1.0] * 5000]], [[[None, 1e308], [-1e308, 0]]], [[[0.0]] * 3000]],
        "chosen": [[[0, 0]] * 5000, [[10**9, 0]], [[0]], [[-1, 0]]],
        "x": [[], [0.0] * 30, [None] * 30, [1e308, -1e308] * 15, [10**9] * 30],
        "y": [[], [0.0] * 30, [None] * 30, [1e308, -1e308] * 15],
        "rows": [[], [[]], [["x"] * 5000], [[None, None]], [HOSTILE] * 2000, [{"label": "", "tokens": ["x"] * 20_000, "values": [1e308] * 20_000}]],
        "settings": [{}, {"a": [[[1]]]}, {"": HOSTILE}, {h: h for h in HOSTILE}, {str(i): i for i in range(5000)}],
        "phases": [[], None, {}],
    },
    "monitor": {
        "phrases": [[], [""], [" "], ["!?"], ["\u200b"], ["\ufdfa" * 900], ["x" * 900] * 90, ["@x5000"], ["x"] * 10_000, "ab", [3], HOSTILE],
        "pattern": ["(a+)+$", "(x*)*y", "(", "", " ", "[" * 5000, "(?:" * 500, "a{100000}{100000}", ".*" * 500, *HOSTILE],
        "kind": ["regex", "contains", "classifier", "evil", None, []],
        "scorer": ["x", None, 3, "os.system"],
        "case_sensitive": ["no", None, 3, True],
        "threshold": [*NUMBERS, 1, 0.999, 2],
        "rates": [{}, [], {"clean": [1, 0]}, {"clean": [10**15, 10**15]}, {"clean": [1]}, {"": ["1", "2"]}, {HOSTILE[0]: [0, 0]}, {"x": [2**62, 2**63]}],
        "format": ["bkdinterp-monitor/2", None, []],
    },
    "settings": {
        **dict.fromkeys("model adapter reference revision gguf_file dtype device system target position folder rows candidates".split(), HOSTILE),
        **dict.fromkeys("minutes n seed".split(), NUMBERS),
        **{key: ["no", True, None, 3, []] for key in "quiet json chat".split()},
        **{key: [HOSTILE, [], "x", [None], [["x"]], 3] for key in "trigger phase".split()},
        "command": ["scan", None, [], HOSTILE[0]],
        "settings": ["/etc/passwd", "../../neighbour/config.json"],
        "gguf-file": ["x", None],
        "version": [HOSTILE[0], 3],
    },
}  # fmt: skip
YAML_TRAPS = [
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    "a: &a [*a]\n",
    "!!python/object/apply:os.mkdir ['CANARY']\n",
    "a: !!python/object/new:os.mkdir ['CANARY']\n",
    "a: !!python/name:os.mkdir\n",
    "a: !include /etc/passwd\n",
    "<<: [{a: 1}, {b: 2}]\n",
    "a: " + "[" * 60_000,
    "a: " + "[\n" * 30_000,
    "{" * 60_000,
    "? " * 30_000,
    "- " * 30_000,
    "a: 1" + ":1" * 30_000,
    "a: 0x" + "f" * 60_000,
    "a: " + "9" * 60_000,
    "a: !!binary " + "!" * 5000,
    "a: " + "&x " * 20_000,
    "a: 1\na: 2\n",
    "a: " + "x" * 200_000,
    "%YAML 9.9\n---\na: 1\n",
    "a: 1\n---\nb: 2\n",
    "a: !!timestamp 99999-99-99\n",
    "\ud800: 1\n",
]
ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**18, 10**400, 0.5, -0.0, float("nan"), float("inf")]
        + ["", " ", "x", "../neighbour", "/etc/passwd", "\ud800", "\0", "@x5000", "1", "None", "é", "a/b", "C:\\x"]
        + [[], {}, [None], [[]], {"a": {"b": {}}}, [1] * 300, {"": ""}, ["x", 3], [1.5, True]]
    ),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
)  # fmt: skip
# Hypothesis likes small numbers and ends of ranges; a multiplier spreads them over a file, and some stay at its head.
SPREAD = st.integers(0, 2**32).map(lambda n: n * 2654435761 % 2**32)
PLACE = st.lists(SPREAD.map(lambda n: n % 2**16), min_size=1, max_size=5)
SPOT = st.one_of(SPREAD, SPREAD, st.integers(0, 200))


def _file(kind: str) -> st.SearchStrategy[str]:
    return st.sampled_from(FILES[kind])


def _json_change(kind: str) -> st.SearchStrategy[Any]:
    file, special = _file(kind), SPECIAL_OF.get(kind, SPECIAL)
    key = st.sampled_from(sorted(special)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(special[name]))
    )
    return st.one_of(
        st.tuples(st.just("set"), file, PLACE, ODD),
        st.tuples(st.just("delete"), file, PLACE),
        st.tuples(st.just("rename"), file, PLACE, st.text(max_size=8)),
        st.tuples(st.just("swap"), file, PLACE, PLACE),
        st.builds(lambda f, p, kv: ("key", f, p, *kv), file, PLACE, key),
        st.builds(lambda f, kv: ("known", f, *kv), file, key),
        st.builds(lambda f, kv: ("known", f, *kv), file, key),
        st.tuples(st.just("deep"), file, PLACE, st.sampled_from([50, 2000, 100_000])),
    )


def _bytes_change(kind: str) -> st.SearchStrategy[Any]:
    file = _file(kind)
    return st.one_of(
        st.tuples(st.just("flip"), file, SPOT, st.integers(0, 7)),
        st.tuples(st.just("cut"), file, SPOT),
        st.tuples(st.just("insert"), file, SPOT, st.binary(min_size=1, max_size=16).map(bytes.hex)),
        st.tuples(st.just("over"), file, SPOT, st.binary(min_size=1, max_size=16).map(bytes.hex)),
        st.tuples(st.just("length"), file, st.sampled_from([0, 1, 7, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])),
    )


def _files_change(kind: str) -> st.SearchStrategy[Any]:
    file = _file(kind)
    names = st.sampled_from(
        ["x", "evil.bin", "pytorch_model.bin", "adapter_model.bin", "model.gguf", ".hidden", "a" * 200]
    )
    target = st.sampled_from(["self", "nowhere", "secret", "../../neighbour/config.json", "/dev/zero", "."])
    return st.one_of(
        st.tuples(st.just("remove"), file),
        st.tuples(st.just("empty"), file),
        st.tuples(st.just("folder"), file),
        st.tuples(st.just("name"), file, names),
        st.tuples(st.just("exchange"), file, file),
        st.tuples(st.just("link"), file, target),
        st.tuples(
            st.just("pickle"),
            st.sampled_from(
                ["pytorch_model.bin", "adapter_model.bin", "model.safetensors", "training_args.bin"]
            ),
        ),
        st.tuples(st.just("code")),
        st.tuples(st.just("template"), st.sampled_from(EVIL_TEMPLATES)),
    )


def _gguf_change() -> st.SearchStrategy[Any]:
    kinds = st.integers(0, 40)
    number = st.one_of(
        st.sampled_from([0, 1, 2**31, 2**40, 2**63, 2**64 - 1, 10**9]), st.integers(0, 2**64 - 1)
    )
    return st.one_of(
        st.tuples(st.just("gguf"), st.just("entry"), SPOT, ODD),
        st.tuples(st.just("gguf"), st.just("type"), SPOT, kinds),
        st.tuples(st.just("gguf"), st.just("drop"), SPOT),
        st.tuples(st.just("gguf"), st.just("twice"), SPOT),
        st.tuples(st.just("gguf"), st.just("count"), st.integers(0, 1), number),
        st.tuples(st.just("gguf"), st.just("version"), number),
        st.tuples(st.just("gguf"), st.just("shape"), SPOT, st.lists(number, max_size=5)),
        st.tuples(st.just("gguf"), st.just("transpose"), SPOT),
        st.tuples(st.just("gguf"), st.just("tensor type"), SPOT, kinds),
        st.tuples(st.just("gguf"), st.just("offset"), SPOT, number),
        st.tuples(st.just("gguf"), st.just("tensor name"), SPOT, st.one_of(st.text(max_size=8), st.just("rope_freqs.weight"))),
        st.tuples(st.just("gguf"), st.just("drop tensor"), SPOT),
        st.tuples(st.just("gguf"), st.just("template"), st.sampled_from(EVIL_TEMPLATES)),
        st.tuples(st.just("gguf"), st.just("item"), SPOT, SPOT, ODD),
        st.tuples(st.just("gguf"), st.just("add"), st.sampled_from(["llama.rope.scaling.type", "general.alignment", "llama.expert_count", "tokenizer.ggml.pre", "x"]), st.sampled_from([4, 8, 6, 9]), ODD),
    )  # fmt: skip


def _index_change() -> st.SearchStrategy[Any]:
    """An index whose entry leads elsewhere: nothing but a refusal is right."""
    outside = "../../neighbour/model.safetensors"
    targets = [outside, f"sub/../{outside}", "ABSOLUTE", "evil.bin", "sound.bin", "/dev/zero"]
    return st.tuples(st.just("index"), SPOT, st.sampled_from(targets))


def changes(kind: str) -> st.SearchStrategy[Any]:
    """One change to an original of this kind."""
    if kind == "gguf":
        return st.one_of(_gguf_change(), _gguf_change(), _gguf_change(), _bytes_change(kind))
    found = [_json_change(kind), _json_change(kind), _bytes_change(kind), _files_change(kind)]
    if kind == "settings":
        found.append(st.tuples(st.just("yaml"), st.sampled_from(YAML_TRAPS)))
    return st.one_of(*found, *([_index_change()] if kind == "sharded" else []))


def draw(kind: str, n: int) -> list[Any]:
    """``n`` recipes of a kind, the same ones every time."""
    found: list[Any] = []

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(changes(kind), min_size=1, max_size=3), st.integers(0, 7))
    def collect(steps: Any, which: int) -> None:
        found.append([kind, which, json.loads(json.dumps(steps))])

    collect()
    return found
