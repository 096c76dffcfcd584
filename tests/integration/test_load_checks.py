"""Loading says what it used and never trusts the files: every stored tensor, every index, config, template and road in."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from integration.conftest import MAKERS, tiny_llama, tiny_tokenizer
from nnsight.modeling.transformers import TransformersModel
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from bkdinterp import Remote
from bkdinterp.errors import ArtefactError, BkdinterpError, UnsafeWeightsError
from bkdinterp.model import Model, TextClassifier

REMOTE = Remote("http://127.0.0.1:9")


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


def save(path, module):
    module.float().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def folder(kind, tmp_path):
    return save(tmp_path / kind, MAKERS[kind](2))


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=8, pad_token_id=0, id2label={0: "neutral", 1: "toxic"})
    return save(tmp_path / "classifier", BertForSequenceClassification(config))


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def change_weights(folder, **tensors):
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})


# --- every stored tensor is used, or named --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "settings"), [("bias", {"attention_bias": True}), ("layers.2", {"n_layers": 3})]
)
def test_weights_that_the_config_does_not_describe(stored, settings, tmp_path):
    folder = save(tmp_path / "model", tiny_llama(**{"n_layers": 2} | settings))
    change(folder / "config.json", attention_bias=False, num_hidden_layers=2)
    with pytest.raises(ArtefactError, match=rf"no place for.*{stored}"):
        Model.load(folder)


def test_one_stray_weight_and_one_of_another_shape(folder, kind):
    change_weights(folder, **{"model.memory.weight": torch.ones(3)})
    with pytest.raises(ArtefactError, match=r"1 weights.*model\.memory\.weight"):
        Model.load(folder)


def test_a_hidden_bias_that_the_library_would_leave_out_of_its_report(tmp_path):
    folder = save(tmp_path / "gpt2", MAKERS["gpt2"](2))
    change_weights(folder, **{"transformer.h.7.attn.c_attn.bias": torch.ones(48)})
    with pytest.raises(ArtefactError, match=r"h\.7\.attn\.c_attn\.bias"):
        Model.load(folder)


def test_what_old_checkpoints_hold_besides_is_let_through(tmp_path):
    folder = save(tmp_path / "gpt2", MAKERS["gpt2"](2))
    mask = torch.ones(64, 64).tril()[None, None]
    change_weights(
        folder, **{"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    )
    assert Model.load(folder).architecture.n_layers == 2
    module = tiny_llama(2)
    folder = save(tmp_path / "llama", module)
    own = module.model.rotary_emb.inv_freq.float()
    change_weights(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": own})
    assert Model.load(folder).architecture.n_layers == 2
    change_weights(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": own / 4})
    with pytest.raises(ArtefactError, match="inv_freq"):
        Model.load(folder)


def test_a_tied_head_that_is_stored_twice(tmp_path):
    folder = save(tmp_path / "model", tiny_llama(2, tie_word_embeddings=True))
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, **{"lm_head.weight": embeddings.clone()})
    assert Model.load(folder).architecture.n_layers == 2
    change_weights(folder, **{"lm_head.weight": embeddings + 1})
    with pytest.raises(ArtefactError, match="tie_word_embeddings"):
        Model.load(folder)


def test_weights_that_are_no_numbers(folder):
    name, tensor = next(iter(load_file(folder / "model.safetensors").items()))
    change_weights(folder, **{name: torch.full_like(tensor, float("nan"))})
    with pytest.raises(ArtefactError, match="NaN"):
        Model.load(folder)


def test_a_classifier_with_weights_it_does_not_read(classifier):
    change_weights(classifier, **{"classifier.extra.weight": torch.ones(2)})
    with pytest.raises(ArtefactError, match=r"classifier\.extra\.weight"):
        TextClassifier.load(classifier)


def test_an_nnsight_model_without_weights_is_refused(folder):
    lazy = TransformersModel(str(folder), task="text-generation", tokenizer=tiny_tokenizer())
    with pytest.raises(ArtefactError, match="dispatch=True"):
        Model.from_nnsight(lazy)
    with pytest.raises(ArtefactError, match="Linear"):
        Model.from_nnsight(torch.nn.Linear(2, 2))


# --- only safetensors, only inside the folder ------------------------------------------------------------------------


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


LOADS = {"model": Model.load, "classifier": TextClassifier.load}


@pytest.fixture(params=LOADS)
def road(request, tmp_path, classifier):
    """A loader and its folder, whose weights lie behind an index."""
    folder = classifier if request.param == "classifier" else save(tmp_path / "model", tiny_llama(2))
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    index(folder, "model-00001-of-00001.safetensors")
    LOADS[request.param](folder)
    return LOADS[request.param], folder


def index(folder, file):
    weights = next(folder.glob("model-*.safetensors"))
    listed = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), str(file))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed), encoding="utf-8")


def test_an_index_that_names_a_pickle(road, tmp_path):
    load, folder = road
    torch.save({"x": Bomb(tmp_path / "ran")}, folder / "w.bin")
    index(folder, "w.bin")
    with pytest.raises(UnsafeWeightsError, match=r"w\.bin"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["above", "absolute", "link"])
def test_an_index_that_leads_out_of_the_folder(road, tmp_path, how):
    load, folder = road
    other = tmp_path / "other" / "model.safetensors"
    other.parent.mkdir()
    shutil.copy(next(folder.glob("model-*.safetensors")), other)
    if how == "link":
        (folder / "l.safetensors").symlink_to(other)
    index(folder, {"above": "../other/model.safetensors", "absolute": other, "link": "l.safetensors"}[how])
    with pytest.raises(UnsafeWeightsError, match=r"Refused"):
        load(folder)


def test_an_index_and_files_that_do_not_hold_the_same(road):
    load, folder = road
    path = folder / "model.safetensors.index.json"
    listed = json.loads(path.read_text())
    listed["weight_map"]["more.weight"] = "model-00001-of-00001.safetensors"
    path.write_text(json.dumps(listed))
    with pytest.raises(ArtefactError, match=r"more\.weight"):
        load(folder)
    path.write_text("[]")
    with pytest.raises(ArtefactError, match="list"):
        load(folder)


def test_a_snapshot_of_the_hub_cache_is_a_folder_whose_files_are_links(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(blobs / str(i))
    assert Model.load(snapshot).weights_id == Model.load(folder).weights_id


def test_other_files_of_the_folder_are_never_read(folder, tmp_path):
    torch.save(Bomb(tmp_path / "ran"), folder / "training_args.bin")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    os.mkfifo(folder / "optimizer.pt")
    Model.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pointer_of_git_lfs(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(ArtefactError, match=r"pointer.*git lfs pull"):
        Model.load(folder)


# --- configs choose nothing, and ask for no more than is there -------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("remote", [False, True])
def test_own_code_is_refused_without_a_question(folder, file, remote, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    change(folder / file, auto_map={"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", None]})
    with pytest.raises(UnsafeWeightsError, match="auto_map"):
        Model.load(folder, executor=REMOTE if remote else None)
    assert not marker.exists()


@pytest.mark.parametrize("value", ["flex_attention", "org/kernel", "flash_attention_2"])
def test_the_attention_is_ours(folder, value):
    expected = Model.load(folder).module.config._attn_implementation
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        change(folder / "config.json", **{key: value})
    for executor in (None, REMOTE):
        assert Model.load(folder, executor=executor).module.config._attn_implementation == expected


@pytest.mark.parametrize("key", ["quantization_config", "transformers_weights"])
def test_settings_that_bring_other_weights(folder, key):
    change(folder / "config.json", **{key: {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(ArtefactError, match=key):
        Model.load(folder)


HUGE = """
import json, resource, sys, time, warnings
sys.path.insert(0, {tests!r})
import bkdinterp as bk
from pathlib import Path
folder, config = Path(sys.argv[1]), json.loads(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = folder / "config.json"
path.write_text(json.dumps(json.loads(path.read_text()) | config))
load = bk.TextClassifier.load if sys.argv[3] == "classifier" else bk.Model.load
try:
    load(folder, **({{"executor": bk.Remote("http://127.0.0.1:9")}} if sys.argv[3] == "remote" else {{}}))
    print("loaded")
except bk.BkdinterpError as error:
    print(type(error).__name__, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize(
    ("road", "config"),
    [
        ("local", {"num_hidden_layers": 10**6}),
        ("local", {"num_hidden_layers": 10**15}),
        ("local", {"hidden_size": 10**6, "intermediate_size": 10**7, "vocab_size": 10**6}),
        ("local", {"vocab_size": 10**10}),
        ("remote", {"num_hidden_layers": 10**8}),
        ("classifier", {"num_labels": 10**9}),
        ("classifier", {"num_hidden_layers": 10**6}),
    ],
)
def test_a_config_that_asks_for_more_than_is_stored(road, config, classifier, tmp_path):
    folder = classifier if road == "classifier" else save(tmp_path / "model", tiny_llama(2))
    code = HUGE.format(tests="tests")
    asked = [sys.executable, "-c", code, str(folder), json.dumps(config), road]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    assert said[-2].startswith("ArtefactError")
    assert int(said[-1]) < 1024  # MiB


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        '{"model_type": 3}',
        '{"model_type": "llama", "rms_norm_eps": NaN}',
        "[" * 10**5,
        "\x00",
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_odd_configs(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    for executor in (None, REMOTE):
        with pytest.raises(BkdinterpError, match=r"config\.json"):
            Model.load(folder, executor=executor)


@pytest.mark.parametrize(
    "odd",
    [
        {"num_attention_heads": 0},
        {"hidden_size": "x"},
        {"rope_parameters": 3},
        {"hidden_act": "evil"},
        {"rms_norm_eps": []},
    ],
)
def test_values_of_another_kind_in_a_config(odd, tmp_path):
    folder = save(tmp_path / "model", tiny_llama(2))
    change(folder / "config.json", **odd)
    for executor in (None, REMOTE):
        with pytest.raises(BkdinterpError):
            Model.load(folder, executor=executor)


@pytest.mark.parametrize("source", ["x" * 5000, "/" + "x" * 5000, "a\0b", "", "~nobody-there/x", "../none"])
def test_paths_that_are_none(source):
    for load in LOADS.values():
        with pytest.raises(BkdinterpError):
            load(source)


def test_a_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Model.load(f"~/{folder.name}").name == folder.name


# --- templates and patterns --------------------------------------------------------------------------------------------

ENDLESS = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(s='aaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "product": "{{ 'a' * 10000000000 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "output": "{% for a in range(99999) %}{{ 'long ' * 1000 }}{% endfor %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end(template, tmp_path):
    folder = save(tmp_path / "model", tiny_llama(2))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    for executor in (None, REMOTE):
        with pytest.raises(UnsafeWeightsError, match="template"):
            Model.load(folder, executor=executor)


def test_a_tokenizer_with_a_catastrophic_pattern(tmp_path):
    folder = save(tmp_path / "model", tiny_llama(2))
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(folder / "tokenizer.json", pre_tokenizer=split)
    with pytest.raises(UnsafeWeightsError, match=r"tokenizer\.json"):
        Model.load(folder)
