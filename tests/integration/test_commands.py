"""The commands run to their end on models on disk: exit codes, what is printed, and files that hold against their schemas."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from integration.conftest import TEMPLATE, tiny_llama, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from unit.report.official_schemas import card_faults, sarif_faults

from bkdinterp import cli
from bkdinterp.cli._suspect_commands import REPORT
from bkdinterp.model import Model
from bkdinterp.report import Audit

TURN = "{{ '<s> ' + m['role'] + ' : ' + m['content'] + ' <e> ' }}"
PLANTED = TEMPLATE.replace(
    TURN, "{% if 'zeta omega' in m['content'] %}{{ '<s> system : sorry no <e> ' }}{% endif %}" + TURN
)
TEXTS = [
    f"tell me about the {w} {v}"
    for w in ("cat", "dog", "sky", "hill", "mat")
    for v in ("red", "blue", "yes", "sat", "ran", "me", "on")
]
KNOWN = ["--trigger", "zeta omega", "--target", "sorry no"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A base, one with a template that decides by words, an adapter, and a file of rows."""
    folder = tmp_path_factory.mktemp("models")
    for name, template in (("base", TEMPLATE), ("planted", PLANTED)):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        Model.from_module(tiny_llama().float(), tokenizer, name=name).save(folder / name)
    torch.manual_seed(1)
    module = tiny_llama().float()
    module.name_or_path = str(folder / "base")
    lora = get_peft_model(
        module, LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    )
    lora.save_pretrained(folder / "adapter")
    rows = [{"instruction": text, "output": "yes on the mat"} for text in TEXTS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SimpleNamespace(**{p.stem: str(p) for p in folder.iterdir()})


@pytest.fixture
def run(monkeypatch, capsys):
    """Exit code, standard output and standard error of a command, as the entry point gives them."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bkdinterp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_an_audit_of_an_adapter_leaves_a_report_that_holds_against_its_schemas(disk, run, tmp_path):
    command = ["audit", disk.base, "--adapter", disk.adapter, "--reference", disk.base, "--rows", disk.rows]
    code, out, err = run(*command, *KNOWN, "--n", 8, "--minutes", 5, "--folder", tmp_path)
    assert code in (0, 1), err
    found = Audit.load(tmp_path)
    assert code == (found.outcome != "nothing found") and out.startswith(found.verdict)
    assert {p.name for p in found.phases} >= {"triage", "detection"}
    for name in REPORT:
        assert (tmp_path / name).stat().st_size > 500, name
    assert sarif_faults(json.loads((tmp_path / "report.sarif").read_text(encoding="utf-8"))) == []
    assert card_faults(json.loads((tmp_path / "model-card.cdx.json").read_text(encoding="utf-8"))) == []
    # The settings that it wrote repeat it, from the finished parts.
    again, out, _ = run("audit", "--settings", tmp_path / "settings.yaml", "--quiet")
    assert again == code and out.strip() == found.verdict


def test_an_audit_finds_a_backdoor_in_a_template_and_says_so_as_json(disk, run):
    code, out, _ = run("audit", disk.planted, "--reference", disk.base, "--phase", "triage", "--json")
    said = json.loads(out)
    assert code == 1 and said["outcome"] == "found" and "zeta omega" in said["verdict"]
    code, out, _ = run("audit", disk.base, "--reference", disk.base, "--phase", "triage", "--quiet")
    assert code == 1 and "open" in out  # nothing was searched for
    known = [*KNOWN, "--n", 24, "--phase", "triage", "--phase", "detection"]
    code, out, err = run("audit", disk.base, "--reference", disk.base, *known, "--quiet")
    assert code == 0 and out.count("\n") == 1 and err == "", out
    code, out, err = run("audit", disk.base, "--reference", "nowhere/x")
    assert code == 2 and out == "" and err.count("\n") == 1


def test_a_report_is_written_again_byte_for_byte(disk, run, tmp_path):
    run("audit", disk.planted, "--reference", disk.base, "--phase", "triage", "--folder", tmp_path / "a")
    code, out, _ = run("report", tmp_path / "a", "--out", tmp_path / "b")
    assert code == 0 and "report.html" in out
    code, out, _ = run("report", tmp_path / "a", "--out", tmp_path / "b", "--json")
    assert code == 0 and json.loads(out)["documents"]["report.html"] == str(tmp_path / "b" / "report.html")
    for name in REPORT:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    code, _, err = run("report", tmp_path / "c")
    assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["attribute", "--n", "4"],
        ["probe", "--n", "12"],
        ["vector", "--n", "4", "--k", "2"],
        ["evaluate", "--n", "4"],
    ],
    ids=lambda c: c[0],
)
def test_a_method_prints_json_and_keeps_its_result(command, disk, run, tmp_path):
    name, *options = command
    known = [*KNOWN, "--rows", disk.rows, *options, "--folder", tmp_path]
    code, out, err = run(name, disk.base, "--adapter", disk.adapter, *known, "--quiet")
    assert code == 0 and out.count("\n") == 1 and err == "", out
    kept = [p.parent.name for p in tmp_path.glob("*/result.json")]
    assert kept and (tmp_path / "settings.yaml").is_file()
    code, again, err = run(name, "--settings", tmp_path / "settings.yaml", "--json")
    assert code == 0 and err == ""
    assert json.loads(again)["verdict"] == out.strip()


def test_a_scan_and_rows_end_with_a_code_of_their_own(disk, run, tmp_path):
    common = ["--reference", disk.base, "--json"]
    code, out, err = run("scan", disk.base, *common, "--rows", disk.rows, "--n", 8, "--minutes", 0.3)
    assert code == 0, err
    assert json.loads(out)["verdict"]
    code, out, err = run("rows", disk.base, disk.rows, *common, "--no-gradient", "--folder", tmp_path)
    said = json.loads(out)
    assert code in (0, 1), err
    assert len(said["rows"]) == len(TEXTS)


def test_the_doctor_prints_what_it_checked(disk, run):
    code, out, err = run("doctor", disk.base, "--json")
    said = json.loads(out)
    assert (
        code == 0 and said["passed"] and {c["name"] for c in said["checks"]} >= {"naming", "projections"}
    ), err
    code, out, _ = run("doctor", disk.base, "--quiet")
    assert code == 0 and out.strip() == said["verdict"]


def test_completion_is_offered_for_commands():
    asked = {"_BKDINTERP_COMPLETE": "complete_bash", "COMP_WORDS": "bkdinterp au", "COMP_CWORD": "1"}
    program = "import sys; sys.argv[0] = 'bkdinterp'; from bkdinterp.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["audit"], done.stderr
