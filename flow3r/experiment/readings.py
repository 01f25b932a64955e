"""A short reading of the decisions of a table: what agrees with the paper, what does not, and which run decides why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flow3r.experiment.comparisons import ONE_SEED

OF = {"auc@30": "poses", "mse": "points", "aepe": "AEPE", "5px": "within 5 px", "rotation": "rotations"}


@dataclass(frozen=True)
class FollowUp:
    """What to run next where a claim is not supported."""

    claim: str  # how its id begins
    verdicts: tuple[str, ...]
    text: str


NOT = ("contradicted", "undecided")
FOLLOW_UPS = (
    FollowUp(
        "table6/dynamic/flow-tracking over flow-factored/aepe",
        NOT,
        "It cannot be told that tracking predicts flow better than the factored head, as it does in the paper: our "
        "tracking head is suspected first. What decides: the tracking head trained alone on a frozen base for as many "
        "steps, its AEPE beside that of the matching stage.",
    ),
    FollowUp(
        "table1/dynamic/flow-factored over 3d-sup/",
        NOT,
        "Whether factored flow needs more steps than these: the same commands with `--schedule cuda`, eight times the "
        "steps in six times the batch. Whether its labels cost more than its flow gives: 3d-sup-exposures. Whether "
        "matching, which is supervised with exact flow, leaves unlabelled flow little to add: matching on static "
        "worlds of the familiar looks alone.",
    ),
    FollowUp(
        "table1/static/flow-factored over 3d-sup/",
        ("contradicted",),
        "Factored flow makes static scenes worse: a smaller share of unlabelled steps decides whether the labelled "
        "steps that it takes the place of are the reason.",
    ),
    FollowUp(
        "table1/dynamic/3d-sup over flow-projective/",
        NOT,
        "Projective flow does no harm that can be told here. Its gradients (plot) tell whether it is unstable; flow of "
        "the embedded teacher in the place of exact flow decides whether exact labels are what saves it.",
    ),
    FollowUp(
        "table1/alignment/3d-sup-shared over 3d-sup/",
        ("supported",),
        "One alignment for points and cameras is better, although world points, which are depth under the decoded "
        "pose, tie the two under separate ones as well. All arms with shared alignment, from a base that has it too, "
        "decide how much of their order is owed to it.",
    ),
    FollowUp(
        "table1/bottleneck/narrow latents leak less/",
        ("supported",),
        "Narrow camera latents are better than wide ones: a sweep of widths between 8 and 32 decides where to stop.",
    ),
    FollowUp(
        "table4/20x over 3x/",
        NOT,
        "In as many steps a larger set is only seen less often. Longer runs decide, in which 300 sequences repeat.",
    ),
    FollowUp(
        "table5/vggt/full over labelled-flow/",
        NOT,
        "Unlabelled flow adds nothing that can be told to labelled flow: `dynamic-20` in the place of `dynamic` "
        "decides whether more of it would.",
    ),
    FollowUp(
        "table7/flow of the teacher over pseudo-3d/",
        NOT,
        "Pseudo-3D labels are as good as flow, or better: on worlds in which more moves the optimiser fails more "
        "often (its failures are counted), which decides whether this holds there.",
    ),
)


def reading(analysis: Mapping[str, Any]) -> Iterator[str]:
    """Paragraphs, in Markdown."""
    claims = analysis["claims"]
    ran = [claim for claim in claims if claim["verdict"] != "not run"]
    if not ran:
        yield "No claim of this table has been tested yet."
        return
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in ("supported", "contradicted")}
    counts["undecided"] = len(ran) - sum(counts.values())
    counts["not run"] = len(claims) - len(ran)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    yield f"Of {len(claims)} claims: {said}."
    for origin, is_ours in (("The paper's claims", False), ("Questions of our own", True)):
        own = [claim for claim in ran if claim["source"].startswith("ours") == is_ours]
        parts = [
            f"*{verdict}*: {'; '.join(names(claim for claim in own if claim['verdict'] == verdict))}."
            for verdict in ("supported", "contradicted", "undecided")
            if any(claim["verdict"] == verdict for claim in own)
        ]
        if parts:
            yield f"**{origin}.** " + " ".join(parts)
    found = list(dict.fromkeys(follow_ups(claims)))
    if found:
        yield "**What to run next.** " + " ".join(found)


def follow_ups(claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where one of its claims has such a verdict. Claims that wait for their other seeds ask for those alone."""
    decidable = [claim for claim in claims if claim.get("why") != ONE_SEED]
    for one in FOLLOW_UPS:
        if any(claim["id"].startswith(one.claim) and claim["verdict"] in one.verdicts for claim in decidable):
            yield one.text
    if len(decidable) < len(claims):
        yield f"The other seeds of {len(claims) - len(decidable)} claims that have one."


def names(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    """Short names of claims, each once with the measures by which it is meant."""
    grouped: dict[str, list[str]] = {}
    for claim in claims:
        name = short_name(claim)
        grouped.setdefault(name, []).extend([OF.get(claim["measure"], claim["measure"])] if "measure" in claim else [])
    return [f"{name} ({', '.join(measures)})" if measures else name for name, measures in grouped.items()]


def short_name(claim: Mapping[str, Any]) -> str:
    """Its id without the table and the measure."""
    parts = claim["id"].split("/")[1:]
    return ": ".join(parts[:-1] if "measure" in claim else parts)
