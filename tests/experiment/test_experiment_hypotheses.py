"""The claims that the experiments test are well formed and about runs that can exist."""

from flow3r.data.regimes import REGIMES
from flow3r.experiment.claims import TABLES
from flow3r.experiment.hypotheses import conjunctions, hypotheses


def test_every_table_has_claims_and_every_claim_a_name_of_its_own():
    claims = (*hypotheses(), *conjunctions())
    assert {claim.table for claim in claims} == set(TABLES)
    assert len({claim.id for claim in claims}) == len(claims)
    assert all(claim.id.startswith(f"{claim.table}/") for claim in claims)
    named = {part for claim in conjunctions() for part in claim.parts}
    named |= {claim.presupposes for claim in hypotheses() if claim.presupposes}
    assert named <= {claim.id for claim in hypotheses()}


def test_sides_that_are_paired_by_world_are_tested_on_the_same_worlds():
    for claim in hypotheses():
        tested = [side for side in (*claim.better, *claim.worse) if side.split == "test"]
        assert len({REGIMES[side.regime].test for side in tested}) == 1, claim.id
        assert not set(claim.better) & set(claim.worse), claim.id


def test_every_claim_about_a_trend_has_one_side_at_least_and_every_other_two():
    for claim in hypotheses():
        assert claim.worse and (claim.better or claim.grows_with), claim.id
        splits = {side.split for side in (*claim.better, *claim.worse)}
        assert splits == {"test"} or not claim.grows_with


def test_factored_is_claimed_to_win_against_each_rival_in_each_regime_by_pose_and_points():
    stated = {
        (claim.better[0].regime, claim.worse[0].arm, claim.measure)
        for claim in hypotheses()
        if claim.table == "table1" and [side.arm for side in claim.better] == ["flow-factored"]
    }
    rivals = ("3d-sup", "flow-projective", "flow-tracking")
    regimes = ("static", "dynamic", "transfer")
    assert {(r, a, m) for r in regimes for a in rivals for m in ("auc@30", "mse")} <= stated
