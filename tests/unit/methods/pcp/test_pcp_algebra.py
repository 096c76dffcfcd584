"""PCP's matrix and its factors, without a model: symmetric, of rank r, A e_i = factor_i e_i."""

from typing import ClassVar

import pytest
import torch

from bkdinterp.errors import ArtefactError, BkdinterpError, SiteError
from bkdinterp.interventions import PCPReplace, Stack
from bkdinterp.methods import PCP, PCPStudy, tune_grid, tune_tpe
from bkdinterp.results import Fingerprint
from bkdinterp.sites import Where
from bkdinterp.stats import PCA

D = 7
PRINT = Fingerprint("toy", None, None, "float64", "t", "d", None, {})


def fitted(ranks=(2, 3)):
    torch.manual_seed(0)
    pcas = {f"L{i}.mlp_out": PCA.fit(torch.randn(30, D, dtype=torch.float64), r) for i, r in enumerate(ranks)}
    directions = {site: p.directions for site, p in pcas.items()}
    return PCP(PRINT, directions, {s: p.explained for s, p in pcas.items()}, 30, Where("last"), "pc")


def test_matrix_has_the_directions_as_eigenvectors():
    pcp = fitted()
    factors = [0.5, -1.5, 2.0, 0.1, 1.0]
    a = pcp.matrix("L0.mlp_out", factors)
    e = pcp.directions["L0.mlp_out"]
    torch.testing.assert_close(a, a.T)
    assert int(torch.linalg.matrix_rank(a)) == 2
    for i, factor in enumerate(factors[:2]):
        torch.testing.assert_close(a @ e[i], factor * e[i])
    # Nothing but the directions gets through.
    x = torch.randn(D, dtype=torch.float64)
    rest = x - e.T @ (e @ x)
    assert float((a @ rest).norm()) < 1e-12


def test_replacement_is_that_matrix():
    pcp = fitted((2,))
    edit = pcp.replace([0.7, -0.2])
    assert isinstance(edit, PCPReplace)
    (lowered,) = edit.lower()
    torch.testing.assert_close(lowered.U @ lowered.V.T, pcp.matrix("L0.mlp_out", [0.7, -0.2]))
    assert lowered.where == Where("all", generated=True)


def test_factors_come_as_one_number_in_a_row_or_by_site():
    pcp = fitted()
    assert isinstance(pcp.replace(2.0), Stack)
    row = pcp.factors([1, 2, 3, 4, 5])
    assert row["L1.mlp_out"].tolist() == [3, 4, 5]
    by_site = pcp.factors({"L1.mlp_out": [3, 4, 5], "L0.mlp_out": [1, 2]})
    assert list(by_site) == list(row) and all(torch.equal(by_site[s], row[s]) for s in row)
    assert pcp.names == ("L0.mlp_out 1", "L0.mlp_out 2", "L1.mlp_out 1", "L1.mlp_out 2", "L1.mlp_out 3")
    for wrong in ([1.0, 2.0], {"L0.mlp_out": [1, 2]}, {"L0.mlp_out": [1], "L1.mlp_out": [1, 2, 3]}):
        with pytest.raises(SiteError):
            pcp.factors(wrong)


def test_results_survive_the_disk(tmp_path):
    pcp = fitted()
    again = PCP.load(pcp.save(tmp_path / "pcp"))
    assert torch.equal(again.matrix("L1.mlp_out", 0.5), pcp.matrix("L1.mlp_out", 0.5))
    study = tune_grid(fitted((1,)), lambda edit: float(edit.factors[0]), [3.0, 1.0, 2.0])
    assert PCPStudy.load(study.save(tmp_path / "study")).best.tolist() == [1.0]


def test_grid_tries_every_combination():
    seen = []

    def objective(edit):
        seen.append(tuple(edit.factors.tolist()))
        return (edit.factors[0] - 2).abs() + (edit.factors[1] + 1).abs()

    study = tune_grid(fitted((2,)), objective, [-1.0, 1.0, 2.0])
    assert len(seen) == len(set(seen)) == 9
    assert study.best.tolist() == [2.0, -1.0] and study.best_value == 0
    assert len(study.to_frame()) == 9


def test_a_study_says_how_many_trials_tie():
    pcp, values = fitted((2,)), [0.0, 1.0, 2.0]
    flat = tune_grid(pcp, lambda edit: max(0.0, 2.0 - float(edit.factors[0])), values)
    assert flat.ties.tolist() == [[2.0, 0.0], [2.0, 1.0], [2.0, 2.0]]
    assert flat.best.tolist() == flat.ties[0].tolist() and "the first of 3 trials that tie" in repr(flat)
    bowl = tune_grid(pcp, lambda edit: float((edit.factors - 1).square().sum()), values)
    assert bowl.ties.tolist() == [[1.0, 1.0]] and "tie" not in repr(bowl)


def test_grid_refuses_too_many_combinations():
    with pytest.raises(BkdinterpError, match="combinations"):
        tune_grid(fitted(), lambda edit: 0.0, [0.1 * i for i in range(10)])


class Bowl:
    """Smallest at (0.4, 1.1); counts its calls, and can break off: neither decides its value."""

    def fingerprint(self):
        # Its attributes are working state and decide nothing.
        return type(self).__name__

    def __init__(self, stop=None):
        self.calls, self.stop = 0, stop

    def __call__(self, edit):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return float((edit.factors - torch.tensor([0.4, 1.1], dtype=torch.float64)).square().sum())


def test_tpe_beats_its_own_random_start():
    pytest.importorskip("optuna")
    study = tune_tpe(fitted((2,)), Bowl(), n_trials=60, seed=1)
    assert study.best_value < float(study.values[:10].min())
    assert study.best_value < 0.02
    assert bool((study.factors >= 0.05).all() and (study.factors <= 2).all())


def test_tpe_taken_up_again_equals_an_unbroken_study(tmp_path):
    pytest.importorskip("optuna")
    whole = tune_tpe(fitted((2,)), Bowl(), n_trials=16, seed=3)
    with pytest.raises(KeyboardInterrupt):
        tune_tpe(fitted((2,)), Bowl(stop=7), n_trials=16, seed=3, folder=tmp_path)
    rest = Bowl()
    resumed = tune_tpe(fitted((2,)), rest, n_trials=16, seed=3, folder=tmp_path)
    assert rest.calls == 9
    assert torch.equal(resumed.factors, whole.factors) and torch.equal(resumed.values, whole.values)
    # Finished: nothing is evaluated again.
    idle = Bowl()
    assert torch.equal(
        tune_tpe(fitted((2,)), idle, n_trials=16, seed=3, folder=tmp_path).values, whole.values
    )
    assert idle.calls == 0


@pytest.mark.parametrize("cut", [1, 5, 40, 400])
def test_a_study_whose_last_line_was_cut_off_goes_on(tmp_path, cut):
    pytest.importorskip("optuna")
    whole = tune_tpe(fitted((2,)), Bowl(), n_trials=8, seed=3)
    with pytest.raises(KeyboardInterrupt):
        tune_tpe(fitted((2,)), Bowl(stop=5), n_trials=8, seed=3, folder=tmp_path)
    journal = tmp_path / "study.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    resumed = tune_tpe(fitted((2,)), Bowl(), n_trials=8, seed=3, folder=tmp_path)
    assert torch.equal(resumed.factors, whole.factors) and torch.equal(resumed.values, whole.values)


def test_a_journal_that_is_none_is_refused(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "study.jsonl").write_text('{"op_code": "x"}\n' * 3, encoding="utf-8")
    with pytest.raises(ArtefactError, match="not a readable study"):
        tune_tpe(fitted((2,)), Bowl(), n_trials=2, seed=3, folder=tmp_path)


def test_batches_of_trials_go_to_many_and_resume(tmp_path):
    pytest.importorskip("optuna")

    class Many(Bowl):
        sizes: ClassVar[list[int]] = []

        def many(self, edits):
            self.sizes.append(len(edits))
            return [self(edit) for edit in edits]

    whole = tune_tpe(fitted((2,)), Many(), n_trials=42, seed=3, batch=5)
    assert Many.sizes == [5] * 8 + [2]
    assert len({tuple(row) for row in whole.factors.tolist()}) == 42
    assert whole.best_value < 0.05
    # Broken off within a batch, whose first values are on disk: the rest of that batch is drawn as before.
    with pytest.raises(KeyboardInterrupt):
        tune_tpe(fitted((2,)), Bowl(stop=23), n_trials=42, seed=3, batch=5, folder=tmp_path)
    rest = Bowl()
    resumed = tune_tpe(fitted((2,)), rest, n_trials=42, seed=3, batch=5, folder=tmp_path)
    assert rest.calls == 42 - 23
    assert torch.equal(resumed.factors, whole.factors)
    with pytest.raises(ArtefactError, match="batch"):
        tune_tpe(fitted((2,)), rest, n_trials=42, seed=3, batch=6, folder=tmp_path)


def test_tpe_refuses_another_study_and_senseless_bounds(tmp_path):
    pytest.importorskip("optuna")
    tune_tpe(fitted((2,)), Bowl(), n_trials=2, seed=3, folder=tmp_path)
    with pytest.raises(ArtefactError, match="bounds"):
        tune_tpe(fitted((2,)), Bowl(), n_trials=4, seed=3, signed=True, folder=tmp_path)
    with pytest.raises(ArtefactError, match="objective"):
        tune_tpe(fitted((2,)), lambda edit: 123.0, n_trials=2, seed=3, folder=tmp_path)
    with pytest.raises(BkdinterpError, match="bounds"):
        tune_tpe(fitted((2,)), Bowl(), bounds=(2.0, 1.0))
    with pytest.raises(BkdinterpError, match="objective gave"):
        tune_tpe(fitted((2,)), lambda edit: float("nan"), n_trials=1)


def test_signed_factors_may_be_negative():
    pytest.importorskip("optuna")
    study = tune_tpe(fitted((2,)), Bowl(), n_trials=12, signed=True, seed=0)
    assert bool((study.factors < 0).any()) and bool((study.factors.abs() <= 2).all())


def test_a_study_goes_on_though_measured_bounds_differ_by_rounding(tmp_path):
    pytest.importorskip("optuna")
    pcp = fitted((2,))

    def bounds(top):
        return dict.fromkeys(pcp.names, (0.0, top))

    whole = tune_tpe(pcp, Bowl(), n_trials=16, seed=3, bounds=bounds(1.7))
    with pytest.raises(KeyboardInterrupt):
        tune_tpe(pcp, Bowl(stop=7), n_trials=16, seed=3, bounds=bounds(1.7), folder=tmp_path)
    resumed = tune_tpe(pcp, Bowl(), n_trials=16, seed=3, bounds=bounds(1.7 * (1 + 4e-7)), folder=tmp_path)
    assert torch.equal(resumed.factors, whole.factors)
    with pytest.raises(ArtefactError, match="other bounds"):
        tune_tpe(pcp, Bowl(), n_trials=16, seed=3, bounds=bounds(1.71), folder=tmp_path)


def test_an_early_study_with_one_pair_of_bounds_for_all_goes_on(tmp_path):
    pytest.importorskip("optuna")
    pcp = fitted((2,))
    whole = tune_tpe(pcp, Bowl(), n_trials=12, seed=3, bounds=(0.25, 1.5))
    tune_tpe(pcp, Bowl(), n_trials=8, seed=3, bounds=(0.25, 1.5), folder=tmp_path)
    file = tmp_path / "study.jsonl"
    text = file.read_text()
    assert "[[0.25, 1.5], [0.25, 1.5]]" in text or "[[0.25,1.5],[0.25,1.5]]" in text
    text = text.replace("[[0.25, 1.5], [0.25, 1.5]]", "[0.25, 1.5]").replace(
        "[[0.25,1.5],[0.25,1.5]]", "[0.25,1.5]"
    )
    file.write_text(text)
    assert torch.equal(
        tune_tpe(pcp, Bowl(), n_trials=12, seed=3, bounds=(0.25, 1.5), folder=tmp_path).factors, whole.factors
    )


def test_every_factor_may_have_bounds_of_its_own():
    pytest.importorskip("optuna")
    pcp = fitted((2,))
    first, second = pcp.names
    study = tune_tpe(pcp, Bowl(), n_trials=20, bounds={second: (0, 1), first: (0, 50)}, signed=True)
    assert float(study.factors[:, 0].abs().max()) > 10 and bool((study.factors < 0).any(0).all())
    assert 0.5 < float(study.factors[:, 1].abs().max()) <= 1
    with pytest.raises(BkdinterpError, match=r"the factors are L0\.mlp_out 1, L0\.mlp_out 2"):
        tune_tpe(pcp, Bowl(), bounds={first: (0, 1)})
    with pytest.raises(BkdinterpError, match=r"bounds\['L0.mlp_out 2'\]=\(1, 0\)"):
        tune_tpe(pcp, Bowl(), bounds={first: (0, 1), second: (1, 0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": (0.1, float("inf"))}, r"bounds=\(0.1, inf\)"),
        ({"bounds": (0.1, -1.0), "signed": True}, r"bounds\[1\] must be positive"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_tpe_refuses_settings_before_the_first_trial(change, message):
    bowl = Bowl()
    with pytest.raises(BkdinterpError, match=message):
        tune_tpe(fitted((2,)), bowl, **({"n_trials": 2} | change))
    assert bowl.calls == 0


class Odd(Bowl):
    """Its many() gives what it is told."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def many(self, edits):
        return self.given


@pytest.mark.parametrize("tune", [tune_grid, tune_tpe])
def test_an_objective_that_gives_no_numbers_is_named(tune):
    pytest.importorskip("optuna")
    settings = {"values": [0.5, 1.0]} if tune is tune_grid else {"n_trials": 2}
    for value in (None, float("nan"), "low"):
        with pytest.raises(BkdinterpError, match=r"objective gave .* at factors"):
            tune(fitted((1,)), lambda edit, value=value: value, **settings)
    for given, message in (([1.0], "gave 1 values for"), (1.0, "must give a list")):
        with pytest.raises(BkdinterpError, match=message):
            tune(fitted((2,)), Odd(given), **(settings | ({"batch": 2} if tune is tune_tpe else {})))


def test_a_file_is_no_folder_of_a_study(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="is not a folder"):
        tune_tpe(fitted((1,)), Bowl(), n_trials=2, folder=tmp_path / "file")
