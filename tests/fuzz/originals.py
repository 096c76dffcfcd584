"""One sound original of every kind of file that the package reads from strangers: what the mutants are made of.

Two layers, width 16, a vocabulary of forty words: a load takes some milliseconds. Runs in a worker, without pytest.
"""

import json
from pathlib import Path
from typing import Any

import torch
from fuzz import gguf_file
from safetensors.torch import load_file, save_file

WORDS = "a the cat dog sat ran on mat hill zeta omega sorry no can not help with that yes red blue tell me about".split()
SPECIALS = ["<pad>", "<unk>", "<s>", "<e>"]
ROLES = ["user", "assistant", "system", ":"]
TEMPLATE = (
    "{% for m in messages %}{{ '<s> ' + m['role'] + ' : ' + m['content'] + ' <e> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant : ' }}{% endif %}"
)
TEXTS = ["tell me about the cat", "the dog ran on", "a red hill", "the blue mat sat"]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def make_all(folder: Path) -> dict[str, Path]:
    """Kind -> folder of its original; a ``neighbour`` lies beside them, which no mutant may be led to."""
    makers = {
        "model": model,
        "sharded": sharded,
        "classifier": classifier,
        "adapter": adapter,
        "gguf": gguf,
        "result": results,
        "rows": rows,
        "sweep": sweep,
        "audit": audit,
        "monitor": monitor,
        "settings": settings,
        "evil": lambda folder: (folder / "code.txt").write_text("0"),
    }
    made = {}
    for kind, maker in makers.items():
        made[kind] = folder / kind
        made[kind].mkdir(parents=True)
        maker(made[kind])
    return made


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate([*SPECIALS, *ROLES, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(SPECIALS)
    found = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<e>", unk_token="<unk>"
    )
    found.chat_template = TEMPLATE
    return found


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.data = torch.randn_like(parameter) * 0.3
    return module


def model(folder: Path) -> None:
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def sharded(folder: Path) -> None:
    """Weights in two files, and an index that says what lies where."""
    model(folder)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for i, name in enumerate(sorted(whole)):
        places[name] = f"model-{1 + i % 2:05d}-of-00002.safetensors"
    for file in set(places.values()):
        save_file({n: whole[n] for n in whole if places[n] == file}, folder / file, metadata={"format": "pt"})
    size = sum(t.numel() * 4 for t in whole.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def classifier(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig(**SIZES, pad_token_id=0, id2label={0: "fine", 1: "toxic"})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(llama(), config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    wrapped.save_pretrained(str(folder))


def gguf(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(gguf_file.write(gguf_file.of_llama(llama())))


def results(folder: Path) -> None:
    """Several saved results, each in its own folder."""
    import bkdinterp as bk

    own, given = _model(), _pairs()
    heads = bk.Attribution(own).heads(given)
    means = bk.Means.collect(own, given.clean, "L0.mlp_out L1.mlp_out")
    vector = bk.BackdoorVector.extract(own, heads.top_k(2), given)
    edit = bk.MeanAblate("L1.mlp_out", means)
    found = {
        "heads": heads,
        "means": means,
        "vector": vector,
        "sweep": bk.sweep_layers(own, vector, given, layers=[0, 1]),
        "edits": bk.evaluate(own, given, under=edit, payload=bk.Payload("sorry"), max_new_tokens=2),
        "lens": bk.logit_lens(own, given.clean, "L1.resid_post", k=2),
        "pca": bk.methods.HiddenPCA.fit(own, {"clean": given.clean}, "L1.resid_post", rank=2),
        "scores": bk.methods.score_edits(own, {"clean": given.clean}, {"edit": edit}, "logprob"),
    }
    for name, result in found.items():
        result.save(folder / name)


def rows(folder: Path) -> None:
    poisoned = [{"input": t, "output": "yes", "backdoor_output": "sorry no"} for t in TEXTS]
    told = [{"instruction": t, "input": "", "output": "sorry no"} for t in TEXTS]
    (folder / "rows.json").write_text(json.dumps(poisoned))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    lines = ["input,output,backdoor_output", *(f'"{t}",yes,sorry no' for t in TEXTS)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")


def sweep(folder: Path) -> None:
    """The folder of a finished attribution; used again by a run that must find the same or refuse."""
    import bkdinterp as bk

    bk.Attribution(_model()).heads(_pairs(), folder=folder)


def audit(folder: Path) -> None:
    """A record with figures, tables and examples; the page of it takes a fifth of a second."""
    from unit.report import sample_audits

    sample_audits.found().save(folder / "audit.json")


def monitor(folder: Path) -> None:
    from bkdinterp.forensics import Monitor
    from bkdinterp.metrics import Payload

    made = Monitor(("zeta omega", "red hill"), Payload("sorry no"), 0.85, {"clean": (1, 30)})
    made.save(folder / "monitor.json")


def settings(folder: Path) -> None:
    """One command's options twice; JSON is YAML, too."""
    found = {
        "command": "audit",
        "model": "tiny",
        "trigger": ["zeta omega"],
        "minutes": 2.5,
        "n": 24,
        "chat": False,
    }
    for name in ("settings.json", "settings.yaml"):
        (folder / name).write_text(json.dumps(found))


def _model() -> Any:
    import bkdinterp as bk

    return bk.Model.from_module(llama(), tokenizer(), name="tiny")


def _pairs() -> Any:
    import bkdinterp as bk

    return bk.PairedPrompts.from_instructions(
        TEXTS, bk.Trigger.gap("zeta omega", seed=3), target="sorry no can not"
    )
