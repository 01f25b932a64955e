"""What the paper claims and the experiments test, with the rule that decides each claim; written before any run.

A claim says that the arms in `better` do better than those in `worse`, by one measure. A side of several arms stands
for the mean of them. The rule, the same for every claim:

1. A run is one arm, trained from one seed. For each seed and each test world, the difference is that of the two sides,
   signed so that it is positive where the claim holds. All arms of a seed fork from one checkpoint and are tested on
   the same worlds, so that differences are paired by seed and by world.
2. Hierarchical bootstrap of their mean: seeds are drawn with replacement, then worlds, the same for all seeds since
   these share them; 10,000 draws of a fixed generator. (Training worlds and test worlds are drawn apart.) Of the
   deviations of drawn seeds, that part of the variance which drawing worlds explains already is taken out; the rest is
   widened by t(0.975, S - 1) / z(0.975) * sqrt(S / (S - 1)), 2.7 at three seeds: without it a percentile interval from
   three seeds that differ would exclude the truth in one case of four (simulated), with it in 4 to 10 of a hundred:
   most often where seeds scatter about as much as their means over worlds do.
3. The claim is `supported` if the 95 % interval lies wholly above zero, `contradicted` if wholly below, and otherwise
   `undecided`. With SEEDS = 3 the interval over seeds is wide: `undecided` is a result. One seed decides nothing.
4. A run that diverged has no measures. Its seed is left out of the differences, and counted. A claim is not supported
   if more seeds of its better side diverged than of its worse side, and not contradicted if it is the other way round.
   Where all seeds of one side diverged and none of the other, this decides. A seed whose run is missing is left out.
5. A world on which a measure does not exist for one of the sides is left out for that seed.
6. A claim that one arm gains less than half of what another gains supposes that the other gains: it is not supported
   unless that is. A claim of several parts is supported if all parts are, and contradicted if one is.
7. A claim with `grows_with` is about a rank correlation (Spearman) over worlds, in the place of the mean: that of the
   difference with a fact of the world.

More than a hundred claims are decided at 95 %: of those where nothing differs, one in twenty-five to one in ten is
decided by chance.
The seeds, the schedule and the flow weights of the runs are chosen without the test worlds.
"""

from flow3r.experiment.claims import FLOW, FLOW_SHARE, POINTS, POSE, Conjunction, Hypothesis, Side, claims

# Ours: what two CPU cores allow. Forecast for two processes: table1 3.9 hours (100 runs), table4 1.1, table5 1.3,
# table7 0.8, limits 1.2, each by itself.
SEEDS = 3


def hypotheses() -> tuple[Hypothesis, ...]:
    """All of them, in the order of the tables."""
    return (*_table1(), *_table4(), *_table5(), *_table6(), *_table7(), *_limits())


def conjunctions() -> tuple[Conjunction, ...]:
    """Claims about two things at once."""
    pose = "table1/dynamic/flow-factored over flow-tracking"
    return (
        Conjunction(
            "table6/accurate flow is not what helps",
            "table6",
            "Tracking predicts flow better than the factored head, which nevertheless gives better poses and points: "
            "the gain does not come from accurate correspondence.",
            "B, Table 6",
            ("table6/dynamic/flow-tracking over flow-factored/aepe", f"{pose}/{POSE}", f"{pose}/{POINTS}"),
        ),
    )


_WHERE = {
    "static": "on static scenes",
    "dynamic": "on dynamic scenes",
    "transfer": "on dynamic scenes after static labels",
}
_IN_PAPER = {"static": "4.1, Table 1 (static)", "dynamic": "4.1, Table 1 (dynamic)", "transfer": "ours, after 4.1"}


def _table1() -> tuple[Hypothesis, ...]:
    found: list[Hypothesis] = []
    for regime, where in _WHERE.items():
        source, factored = _IN_PAPER[regime], Side("flow-factored", regime)
        for other in ("3d-sup", "flow-projective", "flow-tracking"):
            found += claims(
                "table1",
                f"{regime}/flow-factored over {other}",
                f"Factored flow gives better {{what}} than {other} {where}.",
                source,
                factored,
                Side(other, regime),
            )
        found += claims(
            "table1",
            f"{regime}/3d-sup over flow-projective",
            f"Projective flow makes {{what}} worse than no flow at all {where}.",
            source,
            Side("3d-sup", regime),
            Side("flow-projective", regime),
        )
        found += claims(
            "table1",
            f"{regime}/flow-tracking gains little",
            f"Tracking flow gains less than half of what factored flow gains in {{what}} over 3d-sup {where}.",
            source,
            (factored, Side("3d-sup", regime)),
            Side("flow-tracking", regime),
            presupposes=f"table1/{regime}/flow-factored over 3d-sup",
        )
        found += claims(
            "table1",
            f"{regime}/flow-factored over 3d-sup-exposures",
            f"Factored flow gives better {{what}} than 3d-sup after as many labelled steps as it has itself {where}.",
            "ours, after 4.1",
            factored,
            Side("3d-sup-exposures", regime),
        )
    for regime in ("static", "dynamic"):
        found += claims(
            "table1",
            f"{regime}/labels are the bottleneck",
            f"3d-sup has better {{what}} on the labelled worlds that it learnt from than on new ones ({regime}).",
            "ours",
            Side("3d-sup", regime, split="train"),
            Side("3d-sup", regime),
        )
    return (*found, *_scene_flow(), *_bottleneck(), *_alignment())


def _scene_flow() -> tuple[Hypothesis, ...]:
    scene_flow = Side("flow-projective+sceneflow")
    return (
        *claims(
            "table1",
            "dynamic/scene flow mends projection",
            "Predicted scene flow mitigates what projection cannot explain: better {what} than projective flow alone.",
            "3.2",
            scene_flow,
            Side("flow-projective"),
            (POSE, POINTS, FLOW),
        ),
        *claims(
            "table1",
            "dynamic/flow-factored over flow-projective+sceneflow",
            "Flow of decoded cameras and points trains less well even with scene flow: factored has better {what}.",
            "3.2",
            Side("flow-factored"),
            scene_flow,
        ),
    )


def _bottleneck() -> tuple[Hypothesis, ...]:
    """Whether the target's camera latent carries its pose, or more than that."""
    latents, pose = Side("flow-factored"), Side("flow-factored-pose")
    narrow, wide = Side("flow-factored-camera8"), Side("flow-factored-camera32")
    return (
        *claims(
            "table1",
            "bottleneck/latents over decoded pose",
            "Flow from the target's camera latents teaches {what} better than flow from its decoded pose.",
            "3.2",
            latents,
            pose,
        ),
        *claims(
            "table1",
            "bottleneck/latents carry more than pose",
            "The target's camera latents tell more of {what} than its decoded pose does.",
            "3.2 (scene motion is handled implicitly)",
            latents,
            pose,
            (FLOW,),
        ),
        *claims(
            "table1",
            "bottleneck/8 numbers carry more than pose",
            "Eight numbers of camera latents, hardly more than a pose has, tell more of {what} than the decoded pose.",
            "ours",
            narrow,
            pose,
            (FLOW,),
        ),
        *claims(
            "table1",
            "bottleneck/32 numbers over 8",
            "A wider camera latent gives better {what}: beyond a pose it carries appearance or motion of the target.",
            "4.1 (the bottleneck costs accuracy of flow)",
            wide,
            narrow,
            (FLOW,),
        ),
        *claims(
            "table1",
            "bottleneck/narrow latents leak less",
            "Camera latents of 8 numbers give better {what} than full ones, which leak appearance past the pose.",
            "ours",
            narrow,
            latents,
        ),
    )


def _alignment() -> tuple[Hypothesis, ...]:
    """Appendix A.1 aligns points, centres and rotations separately. World points are unprojected depth under the
    decoded pose here, so that the term of points ties them to cameras even so, to one similarity; shared alignment ties
    the similarities of points, centres and rotations as well."""
    return tuple(
        hypothesis
        for arm in ("3d-sup", "flow-factored")
        for hypothesis in claims(
            "table1",
            f"alignment/{arm}-shared over {arm}",
            f"One alignment for points and cameras gives {arm} better {{what}} than separate ones.",
            "ours, after A.1",
            Side(f"{arm}-shared"),
            Side(arm),
        )
    )


def _table4() -> tuple[Hypothesis, ...]:
    none, labelled = Side("3d-sup"), Side("3d-sup", "dynamic-4x-labelled")
    three, ten, twenty = (Side("flow-factored", regime) for regime in ("dynamic", "dynamic-10", "dynamic-20"))
    steps = (
        ("3x over none", "Three times as many unlabelled as labelled sequences give better {what} than none.", none),
        ("10x over 3x", "Ten times as many unlabelled as labelled sequences give better {what} than three.", three),
        ("20x over 10x", "Twenty times as many give better {what} than ten.", ten),
        ("20x over 3x", "Twenty times as many give better {what} than three.", three),
        (
            "20x over 4x labelled",
            "Twenty times as many unlabelled sequences give better {what} than four times as many labelled ones.",
            labelled,
        ),
    )
    amounts = {"3x": three, "10x": ten, "20x": twenty}
    return tuple(
        hypothesis
        for name, claim, worse in steps
        for hypothesis in claims("table4", name, claim, "4.1, Table 4", amounts[name.split()[0]], worse)
    )


def _table5() -> tuple[Hypothesis, ...]:
    found: list[Hypothesis] = []
    for family in ("vggt", "pi3"):
        base, only_3d, labelled, full = (
            Side(arm, family=family) for arm in ("base", "3d-sup", "labelled-flow", "full")
        )
        for name, claim, better, worse in (
            ("3d-sup over base", "More training on labelled data alone gives better {what}.", only_3d, base),
            ("labelled-flow over 3d-sup", "Flow on labelled data gives better {what}.", labelled, only_3d),
            ("full over labelled-flow", "Flow on unlabelled data gives better {what} still.", full, labelled),
            (
                "unlabelled over labelled flow",
                "Flow on unlabelled data adds more to {what} than flow on labelled data does.",
                (full, only_3d),
                labelled,
            ),
        ):
            given = f"table5/{family}/full over labelled-flow" if isinstance(better, tuple) else None
            claim = f"{claim[:-1]} ({family} family)."
            found += claims("table5", f"{family}/{name}", claim, "4.2, Table 5", better, worse, presupposes=given)
    return tuple(found)


def _table6() -> tuple[Hypothesis, ...]:
    found: list[Hypothesis] = []
    for regime, where in _WHERE.items():
        source = "B, Table 6" if regime == "dynamic" else "ours, after B"
        for better, worse in (
            ("flow-tracking", "flow-factored"),  # if not, our tracking head is suspected first
            ("flow-tracking", "flow-projective"),
            ("flow-factored", "flow-projective"),
        ):
            found += claims(
                "table6",
                f"{regime}/{better} over {worse}",
                f"{better} predicts better {{what}} than {worse} {where}.",
                source,
                Side(better, regime),
                Side(worse, regime),
                (FLOW, FLOW_SHARE) if regime == "dynamic" else (FLOW,),
            )
    return tuple(found)


def _table7() -> tuple[Hypothesis, ...]:
    exact, teacher = Side("flow-factored"), Side("flow-factored-teacher")
    pseudo, none = Side("pseudo-3d"), Side("3d-sup")
    return (
        *claims(
            "table7",
            "flow of the teacher over pseudo-3d",
            "Factored flow gives better {what} than pseudo-3D labels that were made from the flow of the same teacher.",
            "C, Table 7",
            teacher,
            pseudo,
        ),
        *claims(
            "table7",
            "exact flow over pseudo-3d",
            "Exact flow gives better {what} than pseudo-3D labels.",
            "ours, after C",
            exact,
            pseudo,
        ),
        *claims(
            "table7",
            "pseudo-3d over 3d-sup",
            "Pseudo-3D labels give better {what} than no labels of unlabelled clips.",
            "Table 7",
            pseudo,
            none,
        ),
    )


def _limits() -> tuple[Hypothesis, ...]:
    """Section 5: the teacher fails in some domains; scenes of many independent motions are hard."""
    found: list[Hypothesis] = []
    exact = Side("flow-factored")
    noise1, noise3, wrong, teacher, corrected = (
        Side(f"flow-factored-{source}") for source in ("noise1", "noise3", "wrong20", "teacher", "corrected")
    )
    for name, claim, better, worse in (
        ("noise of 1 px", "Noise of 1 px in the flow makes {what} worse.", exact, noise1),
        ("noise of 3 px", "Noise of 3 px makes {what} worse than noise of 1 px.", noise1, noise3),
        ("20 % wrong", "A fifth of pairs with flow that agrees in a wrong motion makes {what} worse.", exact, wrong),
        ("the embedded teacher", "Flow of the embedded teacher gives worse {what} than exact flow.", exact, teacher),
        (
            "the teacher's error alone",
            "On the teacher's own pairs and pixels, its errors of flow make {what} worse.",
            corrected,
            teacher,
        ),
    ):
        found += claims("limits", name, claim, "5", better, worse)
    for fact, what in (("moving_objects", "moving objects"), ("moving_area", "moving area")):
        for measure in ("rotation", POINTS):
            of = {"rotation": "rotations", POINTS: "points"}[measure]
            found += [
                Hypothesis(
                    f"limits/error with {what}/{measure}",
                    "limits",
                    f"With flow-factored, the error of {of} grows with {what}.",
                    "5",
                    measure,
                    (),
                    (exact,),
                    fact,
                ),
                Hypothesis(
                    f"limits/gain lost with {what}/{measure}",
                    "limits",
                    f"The gain of flow-factored over 3d-sup in {of} shrinks with {what}.",
                    "5",
                    measure,
                    (Side("3d-sup"),),
                    (exact,),
                    fact,
                ),
            ]
    return tuple(found)
