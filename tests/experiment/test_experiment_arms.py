"""Arms differ in what is said of them and in nothing else; heads are as large; tables hold what claims are about."""

import dataclasses
from itertools import product
from typing import Any

import pytest

from flow3r.data.regimes import REGIMES
from flow3r.errors import InputError
from flow3r.experiment.arms import ARMS, BASE, FAMILIES, Arm, arm_called
from flow3r.experiment.hypotheses import hypotheses
from flow3r.experiment.runs import parameters_of
from flow3r.experiment.tables import TABLES, parts_of
from flow3r.presets import PRESETS

# Arm -> another, and in what alone they differ: fields of the configuration, and where unlabelled flow comes from.
STATED = {
    "3d-sup-exposures": ("3d-sup", {"steps"}),
    "3d-sup-shared": ("3d-sup", {"loss.vggt.alignment"}),
    "pseudo-3d": ("3d-sup", {"unlabelled"}),
    "flow-factored": ("3d-sup", {"model.flow", "loss.flow", "unlabelled", "probe_every"}),
    "flow-projective": ("flow-factored", {"model.flow.kind"}),
    "flow-tracking": ("flow-factored", {"model.flow.kind"}),
    "flow-projective+sceneflow": ("flow-factored", {"model.flow.kind"}),
    "flow-factored-pose": ("flow-factored", {"model.flow.target"}),
    "flow-factored-camera8": ("flow-factored", {"model.flow.camera_width"}),
    "flow-factored-camera32": ("flow-factored", {"model.flow.camera_width"}),
    "flow-factored-shared": ("flow-factored", {"loss.vggt.alignment"}),
    "flow-factored-noise1": ("flow-factored", {"unlabelled"}),
    "flow-factored-noise3": ("flow-factored", {"unlabelled"}),
    "flow-factored-wrong20": ("flow-factored", {"unlabelled"}),
    "flow-factored-teacher": ("flow-factored", {"unlabelled"}),
    "flow-factored-corrected": ("flow-factored", {"unlabelled"}),
    "full": ("flow-factored", {"data.labelled_flow"}),
    "labelled-flow": ("full", {"unlabelled", "probe_every"}),
}


def fields(name: str, family: str) -> dict[str, Any]:
    arm = arm_called(name)
    weight = None if arm.head is None else 0.3
    config = arm.config(family, steps=100, seed=3, flow_weight=weight, init_from="base")
    return {**flat(dataclasses.asdict(config)), "unlabelled": arm.unlabelled}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize(("name", "family"), list(product(STATED, FAMILIES)))
def test_an_arm_differs_from_its_neighbour_in_the_stated_fields_alone(name: str, family: str):
    other, stated = STATED[name]
    if ARMS[name].alignment != "separate" and family == "pi3":
        with pytest.raises(InputError, match="one alignment"):
            fields(name, family)
        return
    one, two = fields(name, family), fields(other, family)
    differing = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)} - {"name"}
    # A head that only one of them has is one difference, whatever it consists of.
    differing = {"model.flow" if "model.flow" in stated and key.startswith("model.flow") else key for key in differing}
    assert differing == stated


def test_every_arm_is_compared():
    assert {*STATED, "3d-sup"} == set(ARMS)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_that_learn_have_as_many_parameters_within_a_tenth(family: str):
    heads = {
        name: parameters_of(arm.config(family, steps=1, seed=0, flow_weight=1.0))["flow_head"]
        for name, arm in ARMS.items()
        if arm.head is not None and arm.alignment == "separate"
    }
    assert heads.pop("flow-projective") == 0  # computed, not learnt
    assert max(heads.values()) <= 1.1 * min(heads.values()), heads


def test_the_baseline_of_equal_exposures_takes_the_labelled_steps_of_the_variants():
    share = PRESETS["experiment-vggt"].data.unlabelled_share
    assert ARMS["3d-sup-exposures"].config("vggt", steps=500, seed=0).steps == round(500 * (1 - share))


def test_every_run_that_a_claim_is_about_is_in_its_table():
    for claim in hypotheses():
        run = {(part.family, part.regime, arm) for part in TABLES[claim.table] for arm in part.arms}
        assert {(side.family, side.regime, side.arm) for side in (*claim.better, *claim.worse)} <= run, claim.id


def test_tables_name_arms_and_regimes_that_exist():
    for parts in TABLES.values():
        assert {arm for part in parts for arm in part.arms} <= {BASE, *ARMS}
        assert {part.regime for part in parts} <= set(REGIMES)


def test_a_table_can_be_run_in_part_and_refuses_what_it_has_not():
    (part,) = parts_of("table1", arms=["3d-sup", "flow-factored"], regimes=["static"])
    assert (part.regime, part.arms) == ("static", ("3d-sup", "flow-factored"))
    with pytest.raises(InputError, match="table4 has no flow-tracking; expected some of 3d-sup, base"):
        list(parts_of("table4", arms=["flow-tracking"]))
    with pytest.raises(InputError, match="no table is called 'table9'"):
        list(parts_of("table9"))


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_no_arm_begins_with_the_batches_of_its_base(arm):
    """A batch is a function of seed and step: those of a base and of its forks must not share a seed."""
    base = Arm(BASE).config("vggt", steps=10, seed=2)
    forks = {arm.config("vggt", steps=10, seed=seed, flow_weight=1.0).seed for seed in range(3)}
    assert len(forks) == 3 and not forks & {Arm(BASE).config("vggt", steps=1, seed=seed).seed for seed in range(3)}
    assert base.seed == 2
