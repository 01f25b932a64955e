"""Clips of Kinetics and EPIC-KITCHENS with pseudo ground truth by MegaSaM: chosen, cut, handed over, taken back.

Neither has labels, and the lists that the paper used are not published. A list made here is drawn by hash from what is
held out of training, and its manifest says by hashes what was drawn and what came back:

    curate    OUT/clips.json, OUT/frames/<scene>/000000.jpg ..., OUT/megasam.sh
    (run OUT/megasam.sh where there is a GPU and a checkout of MegaSaM; it leaves OUT/results)
    ingest    OUT/megasam/outputs_cvd/<scene>_sgd_cvd_hr.npz of the accepted clips, OUT/manifest.json
"""

import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from flow3r.data.conventions import LONG_SIDE, reprojection, shrink
from flow3r.data.datasets.epic_kitchens import EPIC_KITCHENS, TESTS
from flow3r.data.datasets.kinetics700 import KINETICS700
from flow3r.data.datasets.megasam import MEGASAM
from flow3r.data.frame import Excerpt, Sequence
from flow3r.data.sampling import seconds_of, spread_indices
from flow3r.data.transforms import resize_image
from flow3r.data.validate import LEAST_PAIRS, choose_matches
from flow3r.data.video import VideoFile, content_sha256, find_shots
from flow3r.errors import InputError
from flow3r.files import atomic_path, sha256_of_bytes, sha256_of_file, sha256_of_json, write_json, write_text

Kind = Literal["kinetics", "epic"]
Refuse = Callable[[UInt8[np.ndarray, "N H W 3"]], str]  # why consecutive frames of a clip will not do, or ""

CLIPS, SCRIPT, FRAMES, RESULTS, ACCEPTED, MANIFEST = (
    "clips.json", "megasam.sh", "frames", "results", "megasam", "manifest.json"
)  # fmt: skip
LOOKED_AT = 1500  # ours: frames of a long video that are searched for a shot
SMALL = 320  # ours: pixels of the long side of the images that a clip is judged by
JPEG_QUALITY = 95
MOST_RESIDUAL = 0.01  # ours: of the long side, median over matches and pairs


@dataclass(frozen=True)
class Curation:
    """How clips are chosen."""

    clips: int  # Kinetics: 60, the paper's Sec. 4.1; EPIC-KITCHENS: ours
    least_frames: int
    most_frames: int  # MegaSaM keeps 1000
    rate: float | None = None  # frames a second; None: that of the video
    seed: int = 0


CURATIONS: dict[str, Curation] = {
    "kinetics": Curation(clips=60, least_frames=120, most_frames=300),  # ours, but for the number
    "epic": Curation(clips=60, least_frames=100, most_frames=100, rate=10.0),  # 100 frames: paper; their rate: ours
}


def curate(kind: Kind, root: Path, out: Path, curation: Curation, refuse: Refuse) -> Counter[str]:
    """Choose clips, cut their frames, and write MegaSaM's job; what was left out, by reason.

    Only what is held out of training is drawn: Kinetics' val and test clips of videos that train does not have, and the
    videos of EPIC-KITCHENS' validation or test lists, which must lie in `root`. Raises InputError without any clip.
    """
    held_out = {"kinetics": _held_out_of_kinetics, "epic": _held_out_of_epic}[kind](root)
    order = sorted(held_out, key=lambda s: sha256_of_bytes(f"{curation.seed}/{kind}/{s.name}".encode()))
    clips: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for sequence in order:
        if len(clips) == curation.clips:
            break
        try:
            indices = choose_frames(sequence, curation, refuse)
            if isinstance(indices, str):
                left_out[indices] += 1
                continue
            scene = f"{len(clips):03d}_{re.sub(r'[^A-Za-z0-9_-]', '_', sequence.name)}"
            clips.append(_cut(sequence, indices, out / FRAMES / scene))
        except (InputError, OSError):
            left_out["cannot be read"] += 1
    if not clips:
        raise InputError(f"{root}: none of {len(order)} held-out videos gives a clip: {_said(left_out)}")
    write_text(out / SCRIPT, job_script([clip["scene"] for clip in clips]))
    record = {"kind": kind, "curation": asdict(curation), "candidates": len(order), "left_out": dict(left_out)}
    write_json(out / CLIPS, record | {"clips": clips})
    return left_out


def choose_frames(sequence: Sequence, curation: Curation, refuse: Refuse) -> list[int] | str:
    """The frames of a clip in the middle of the longest shot, or why there is none."""
    start = max(0, len(sequence) - LOOKED_AT) // 2
    excerpt = Excerpt(sequence, start, min(len(sequence), start + LOOKED_AT))
    if len(excerpt) < curation.least_frames:
        return f"fewer than {curation.least_frames} frames"
    first, stop = max(find_shots(excerpt), key=lambda shot: shot[1] - shot[0])
    within = np.arange(start + first, start + stop)
    if curation.rate is not None:
        seconds = seconds_of(sequence.timestamps())[within]
        wanted = np.arange(seconds[0], seconds[-1], 1 / curation.rate)
        within = within[np.unique(np.searchsorted(seconds, wanted - 1e-6).clip(0, len(within) - 1))]
    if len(within) < curation.least_frames:
        return f"no shot of {curation.least_frames} frames"
    before = max(0, len(within) - curation.most_frames) // 2
    indices = within[before : before + curation.most_frames].tolist()
    return refuse(np.stack([_small(frame.image) for frame in sequence.frames(indices)])) or indices


def job_script(scenes: List[str]) -> str:
    """MegaSaM over the scenes, as its repository's demo runs it: depth, metric depth, tracking, flow, consistent depth.

    A scene that fails is listed in `failed.txt` and the others go on; scenes with a result are not run again.
    """
    named = "\n  ".join(shlex.quote(scene) for scene in scenes)
    return f"""#!/usr/bin/env bash
# MegaSaM (https://github.com/mega-sam/mega-sam) over {len(scenes)} clips. Needs a GPU, and a checkout of it that is
# built and has its checkpoints: MEGASAM=/path/to/mega-sam bash {SCRIPT}
set -uo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
cd "${{MEGASAM:?set it to a checkout of mega-sam with its checkpoints}}" || exit 1
mkdir -p "$here/{RESULTS}/outputs" "$here/{RESULTS}/outputs_cvd"
export PYTHONPATH="${{PYTHONPATH:-}}:$PWD/UniDepth"
scenes=(
  {named}
)
: > "$here/{RESULTS}/failed.txt"
for scene in "${{scenes[@]}}"; do
  frames="$here/{FRAMES}/$scene"
  [ -f "$here/{RESULTS}/outputs_cvd/${{scene}}_sgd_cvd_hr.npz" ] && continue
  python Depth-Anything/run_videos.py --encoder vitl \\
      --load-from Depth-Anything/checkpoints/depth_anything_vitl14.pth \\
      --img-path "$frames" --outdir "Depth-Anything/video_visualization/$scene" &&
    python UniDepth/scripts/demo_mega-sam.py --scene-name "$scene" --img-path "$frames" --outdir UniDepth/outputs &&
    python camera_tracking_scripts/test_demo.py --datapath="$frames" --weights=checkpoints/megasam_final.pth \\
      --scene_name "$scene" --mono_depth_path "$PWD/Depth-Anything/video_visualization" \\
      --metric_depth_path "$PWD/UniDepth/outputs" --disable_vis &&
    python cvd_opt/preprocess_flow.py --datapath="$frames" --model=cvd_opt/raft-things.pth \\
      --scene_name "$scene" --mixed_precision &&
    python cvd_opt/cvd_opt.py --scene_name "$scene" --w_grad 2.0 --w_normal 5.0 &&
    cp "outputs/${{scene}}_droid.npz" "$here/{RESULTS}/outputs/" &&
    cp "outputs_cvd/${{scene}}_sgd_cvd_hr.npz" "$here/{RESULTS}/outputs_cvd/" ||
    echo "$scene" >> "$here/{RESULTS}/failed.txt"
done
"""


def ingest(out: Path, results: Path, most_residual: float = MOST_RESIDUAL) -> dict[str, Any]:
    """Take MegaSaM's results of the curated clips: the manifest, as written to OUT/manifest.json.

    Of each clip the residual: the median distance between where features are seen and where the result says, over the
    long side. Rejected are clips without a whole result, with too few matches to tell, and above `most_residual`. Those
    accepted lie in OUT/megasam, which the dataset `megasam` reads.
    """
    curated = read_clips(out)
    found = {clip.name: clip for clip in MEGASAM.sequences(results)}
    accepted, rejected = [], []
    for clip in curated["clips"]:
        verdict = _judge(clip, found.get(clip["scene"]), most_residual)
        (rejected if "reason" in verdict else accepted).append(verdict)
    with atomic_path(out / ACCEPTED) as folder:
        for entry in accepted:
            _link(found[entry["scene"]].files[0], folder)
        folder.mkdir(exist_ok=True)
    manifest = {
        "kind": curated["kind"],
        "clips_sha256": sha256_of_file(out / CLIPS),
        "most_residual": most_residual,
        "sha256": sha256_of_json(accepted),
        "accepted": accepted,
        "rejected": rejected,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def residual(sequence: Sequence) -> float | None:
    """Median reprojection of matched features over LONG_SIDE or the smaller long side; None for too few matches."""
    numbers = spread_indices(len(sequence), 24)
    frames = [shrink(frame) for frame in sequence.frames(numbers)]
    matches = choose_matches(frames, numbers)
    if len(matches) < LEAST_PAIRS:
        return None
    return reprojection(matches, frames) / min(LONG_SIDE, max(frames[0].image.shape[:2]))


def read_clips(out: Path) -> dict[str, Any]:
    """What `curate` wrote. Raises InputError if it has not."""
    try:
        return json.loads((out / CLIPS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{out / CLIPS}: no list of curated clips that can be read ({error}); curate first") from error


def _judge(clip: dict[str, Any], result: Sequence | None, most: float) -> dict[str, Any]:
    entry = {"scene": clip["scene"], "source": clip["source"], "source_sha256": clip["source_sha256"]}
    if result is None:
        return entry | {"reason": "no result"}
    try:
        if len(result) != len(clip["frames"]):
            return entry | {"reason": f"{len(result)} frames with a pose; {len(clip['frames'])} were cut"}
        found = residual(result)
    except InputError as error:
        return entry | {"reason": str(error)}
    if found is None:
        return entry | {"reason": "too few features to match"}
    entry |= {"frames": clip["frames"], "residual": round(found, 6), "sha256": sha256_of_file(result.files[0])}
    return entry if found <= most else entry | {"reason": f"residual {found:.4f} above {most:g}"}


def _link(file: Path, folder: Path) -> None:
    target = folder / file.parent.name / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # of another disk
        shutil.copyfile(file, target)


def _cut(sequence: Sequence, indices: list[int], folder: Path) -> dict[str, Any]:
    """Write the frames, and say what they are."""
    from PIL import Image

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for number, frame in enumerate(sequence.frames(indices)):
            Image.fromarray(frame.image).save(temporary / f"{number:06d}.jpg", quality=JPEG_QUALITY)
    if isinstance(sequence, VideoFile):
        source = content_sha256(sequence)
    else:  # images: those of the clip
        source = sha256_of_json([sha256_of_file(sequence.files[index]) for index in indices])
    times = np.asarray(sequence.timestamps())[indices].round(6).tolist()
    entry = {"scene": folder.name, "source": sequence.name, "source_sha256": source}
    return entry | {"frames": indices, "timestamps": times}


def _held_out_of_kinetics(root: Path) -> Iterator[Sequence]:
    found = KINETICS700.sequences(root)
    trained = {_video_id(sequence.name) for sequence in found if sequence.name.startswith("train/")}
    return (s for s in found if not s.name.startswith("train/") and _video_id(s.name) not in trained)


def _video_id(name: str) -> str:
    """Of YouTube, in <split>/<class>/<id>_<start>_<end>."""
    return re.sub(r"_\d{6}_\d{6}$", "", name.rpartition("/")[2])


def _held_out_of_epic(root: Path) -> Iterator[Sequence]:
    tree = root / "EPIC-KITCHENS" if (root / "EPIC-KITCHENS").is_dir() else root
    if not any((tree / name).is_file() for name in TESTS):
        raise InputError(
            f"{tree}: neither {' nor '.join(TESTS)}; put one of them there, from the repository "
            "epic-kitchens-100-annotations: it says which videos training has not seen"
        )
    held_out = set(EPIC_KITCHENS.held_out(root))
    return (sequence for sequence in EPIC_KITCHENS.sequences(root) if sequence.name in held_out)


def _small(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    scale = min(1.0, SMALL / max(image.shape[:2]))
    return resize_image(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def _said(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none is there"
