"""Measures by name for a run to follow: those of `eval`, on data made once."""

import pytest
from exact_scenes import KnowingModel

from flow3r.errors import InputError
from flow3r.eval.scenes import worlds
from flow3r.eval.validation import HeldOutPairs, Validation, held_out_worlds, validation

SMALL = {"scenes": 2, "views": 3, "size": (42, 56), "pairs": 2, "seed": 5}


def test_values_are_those_of_the_report_and_the_truth_is_perfect():
    scenes = worlds(**SMALL).kept()
    knowing = KnowingModel(list(scenes.batches))
    values = Validation({"worlds": scenes})(knowing)
    report = scenes.evaluate(knowing)
    assert values == {f"worlds/{name}": report.mean("model", name) for name in report.columns if name != "sampson"}
    assert values["worlds/auc@30"] == 100.0 and values["worlds/abs_rel"] == pytest.approx(0.0, abs=1e-5)
    assert Validation({"worlds": scenes})(knowing) == values


def test_every_measure_knows_which_values_are_best_and_others_are_refused():
    measured = Validation({"worlds": worlds(**SMALL), "clip": HeldOutPairs.__new__(HeldOutPairs)})
    assert measured.better("worlds/auc@30") == "highest" and measured.better("worlds/abs_rel") == "lowest"
    for name in ("worlds", "auc@30", "worlds/sampson", "scene/ate", "worlds/auc"):
        with pytest.raises(InputError, match="is not measured; expected"):
            measured.better(name)


def test_worlds_have_the_size_that_a_model_is_made_for():
    for tokens, side in (((64, 96), 112), ((40, 60), 98), ((510, 1300), 322)):
        assert held_out_worlds(tokens, 14, scenes=1).settings["size"] == [side, side]
        assert tokens[0] <= (side // 14) ** 2 <= tokens[1]


def test_nothing_to_measure_is_no_validation():
    assert validation((40, 60), 14) is None
