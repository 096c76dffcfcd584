"""Suspect files, damaged at random: whatever is in them, the package refuses with its own error or succeeds.

Mutants of model folders, sharded ones, skeletons, classifiers, adapters, GGUF files, saved results, row files, sweep
folders, records of audits with their documents, monitors and commands' settings. Nothing else may happen: no foreign error, no hang, no crash, no gigabyte, nothing written or read
outside, nothing run, unpickled, fetched or asked. The recipes are the same ones every time; BKDINTERP_FUZZ says how
many. A failing one is printed, and is run again by

    BKDINTERP_RECIPE='["adapter", 0, [["cut", "adapter_config.json", 7]]]' pytest tests/fuzz -k one_recipe -s
"""

import json
import os
from collections import Counter, defaultdict

import pytest
from fuzz.pool import open_pool
from fuzz.recipes import SHARES, draw

MUTANTS = int(os.environ.get("BKDINTERP_FUZZ", "2520"))
pytestmark = pytest.mark.fuzz


@pytest.fixture(scope="module")
def pool():
    with open_pool(2) as found:
        yield found


def how_many(kind):
    return max(1, round(MUTANTS * SHARES[kind] / sum(SHARES.values())))


def report(recipes, told):
    """Lines of distinct faults, the most frequent first: how often, where, and the shortest recipe that shows it."""
    shown = defaultdict(list)
    for recipe, answer in zip(recipes, told, strict=True):
        for fault in answer["faults"]:
            shown[fault].append((len(json.dumps(recipe)), json.dumps(recipe), answer.get("text", "")))
    ordered = sorted(shown.items(), key=lambda item: -len(item[1]))
    return [
        f"{len(cases):4d} x {fault}\n         {min(cases)[1]}  {min(cases)[2]}" for fault, cases in ordered
    ]


def test_what_is_sound_is_read(pool):
    recipes = [[kind, which, []] for kind in SHARES for which in range(8)]
    for recipe, answer in zip(recipes, pool.run(recipes), strict=True):
        assert answer["end"] == "success" and not answer["faults"], (recipe, answer)


@pytest.mark.parametrize("kind", SHARES)
def test_a_damaged_one_is_refused_or_read(pool, kind):
    recipes = draw(kind, how_many(kind))
    told = pool.run(recipes)
    ends = Counter(answer["end"] for answer in told)
    cpu, peak = sum(a["cpu"] for a in told), max(a.get("peak", 0) for a in told)
    print(
        f"\n{kind}: {len(told)} mutants, {dict(ends.most_common())}, {cpu:.0f} s of CPU, at most {peak >> 20} MiB"
    )
    # A fuzzer that never gets through, or never breaks anything, tests nothing.
    assert len(recipes) >= 0.9 * how_many(kind)
    if len(recipes) >= 50:
        # What is damaged in a sweep's folder is computed again, to the same numbers: all may succeed.
        assert 0.02 * len(told) <= ends["success"] <= (1 if kind == "sweep" else 0.9) * len(told)
    faults = report(recipes, told)
    assert not faults, f"{kind}: {len(faults)} distinct faults\n" + "\n".join(faults)


EVIL = [
    # What the guard must see, done by the worker itself instead of by a file; the name of what it is told as.
    ("open('/tmp/elsewhere-of-a-mutant', 'w')", "wrote outside"),
    ("__import__('os').mkdir(CANARY)", "wrote outside"),
    ("__import__('os').system('true')", "ran"),
    ("__import__('subprocess').run(['true'])", "ran"),
    ("__import__('pickle').loads(__import__('pickle').dumps(__import__('pathlib').Path('x')))", "unpickled"),
    ("__import__('socket').socket().connect(('127.0.0.1', 9))", "network"),
    ("input('Run the custom code? ')", "asked"),
    ("exec(compile('1', FOLDER + '/evil.py', 'exec'))", "ran"),
    ("open(FOLDER + '/../../neighbour/config.json')", "read outside"),
    ("[0 for i in iter(int, 1)]", "hang"),
    ("__import__('torch').ones(400_000_000)", "memory"),
    ("bytearray(10**11)", "memory"),
    ("__import__('ctypes').string_at(0)", "crash"),
    ("{}['x']", "foreign"),
]


@pytest.mark.parametrize(("code", "told"), EVIL, ids=[code[:40] for code, _ in EVIL])
def test_the_guard_sees(pool, code, told):
    (answer,) = pool.run([["evil", 0, [["do", code]]]])
    assert any(fault.startswith(told) for fault in answer["faults"]), answer


def test_mutants_are_the_same_every_time():
    assert draw("adapter", 30) == draw("adapter", 30)
    assert len({json.dumps(r) for r in draw("model", 200)}) > 150


@pytest.mark.skipif("BKDINTERP_RECIPE" not in os.environ, reason="for one recipe by hand")
def test_one_recipe(pool):
    (answer,) = pool.run([json.loads(os.environ["BKDINTERP_RECIPE"])])
    print(json.dumps(answer, indent=2))
    assert not answer["faults"]
