"""Pseudo-3D labels on disk: what was written is drawn, as one geometry; what failed never is, and is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.mixture import StepBatches, Wanted, stream
from flow3r.data.pseudo_worlds import INDEX, PseudoSequences, PseudoWorld, PseudoWorlds
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError
from flow3r.geometry.camera import unproject
from flow3r.geometry.flow import project_flow
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.types import Views

SET = WorldSet("static", "unlabelled", 4)
PLACED = {0: tuple(range(FRAMES)), 2: (1, 4, 5), 3: (7,)}  # frames; world 1 failed
SCALE = 0.37  # of the labels, where the worlds' own is 1
WANTED = Wanted(step=0, scenes=6, views=3, size=(SIDE, SIDE), pairs=0)


def exact(number: int) -> PseudoWorld:
    """The truth, in another world frame and scale, with every other row unknown."""
    frames = torch.tensor([PLACED[number]])
    views = SET.render([number], frames).views
    other = torch.tensor([[0.0, -1, 0, 2], [1, 0, 0, -3], [0, 0, 1, 5], [0, 0, 0, 1]])
    poses = other @ views.world_from_camera[0]
    poses[:, :3, 3] *= SCALE
    depth = SCALE * views.depth[0]
    depth[:, ::2] = 0
    images = (views.images[0].movedim(1, -1) * 255).round().byte()
    labels = (value.numpy() for value in (images, depth, views.intrinsics[0], poses))
    return PseudoWorld(frames[0].numpy(), *labels, {"points": 7})


@pytest.fixture(scope="module")
def pseudo(tmp_path_factory: pytest.TempPathFactory) -> PseudoWorlds:
    made = PseudoWorlds(SET, tmp_path_factory.mktemp("pseudo"), {"by": "test"})
    for number in PLACED:
        made.write(number, exact(number))
    made.fail(1, "COLMAP placed 2 of 12 frames")
    return PseudoWorlds(SET, made.folder)


def frames_of(names: tuple[str, ...]) -> tuple[int, list[int]]:
    """The world's number, and the frames, that are named."""
    worlds = {name.split()[0] for name in names}
    assert len(worlds) == 1
    return int(worlds.pop().split("/")[-1]), [int(name.split()[1]) for name in names]


def test_drawn_scenes_reproject_as_the_worlds_do(pseudo: PseudoWorlds):
    source = PseudoSequences(pseudo)
    views = source.draw(source.fit(WANTED, stream(0, 0, "fit")), stream(0, 0, "test"))
    assert views.images.shape == (6, 3, 3, SIDE, SIDE) and views.labelled and views.flow is None
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    found, _ = project_flow(points[:, 0], invert(views.world_from_camera[:, 2]), views.intrinsics[:, 2])
    for scene, names in enumerate(views.names):
        number, frames = frames_of(names)
        truth = SET.render([number], torch.tensor([frames]), torch.tensor([[[0, 2]]])).views
        assert (truth.images[0] - views.images[scene]).abs().max() <= 0.5 / 255 + 1e-4
        seen = (truth.flow.covisible[0, 0] > 0) & (views.depth[scene, 0] > 0)
        error = (truth.flow.displacement[0, 0] - found[scene]).norm(dim=-1)
        assert seen.sum() > 100 and error[seen].max() < 0.05
        torch.testing.assert_close(views.depth[scene, :, 1::2], SCALE * truth.depth[0, :, 1::2], rtol=1e-5, atol=0)
        assert not views.depth[scene, :, ::2].any()


def test_depth_is_known_in_part_and_never_says_that_it_is_dense(pseudo: PseudoWorlds):
    views = PseudoSequences(pseudo).draw(WANTED, stream(0, 0, "test"))
    assert views.dense.shape == (6, 3) and not views.dense.any()


def test_failed_worlds_and_frames_that_were_not_placed_are_never_drawn(pseudo: PseudoWorlds):
    source, seen = PseudoSequences(pseudo), {0: set(), 2: set()}
    for step in range(8):
        for names in source.draw(WANTED, stream(0, step, "test")).names:
            number, frames = frames_of(names)
            assert frames == sorted(set(frames))
            seen[number] |= set(frames)
    assert seen[2] == set(PLACED[2]) and seen[0] == set(PLACED[0])
    assert source.counts() == {"pseudo-labelled scenes of static/unlabelled": 48}
    longer = Wanted(0, 4, 4, (SIDE, SIDE), 0)  # of more views than were placed in world 2
    assert {frames_of(names)[0] for names in source.draw(longer, stream(0, 0, "test")).names} == {0}


def test_worlds_are_equally_likely_however_many_frames_were_placed(pseudo: PseudoWorlds):
    wanted = Wanted(0, 400, 1, (SIDE, SIDE), 0)

    class Numbers(PseudoWorlds):
        def views(self, numbers, rows):
            self.drawn = torch.tensor(numbers).bincount(minlength=SET.count).tolist()
            return Views(torch.zeros(len(numbers), 1, 3, 1, 1))

    numbers = Numbers(SET, pseudo.folder)
    PseudoSequences(numbers).draw(wanted, stream(0, 0, "test"))
    assert numbers.drawn[1] == 0 and all(100 < numbers.drawn[k] < 170 for k in PLACED)


def test_failures_are_counted_with_their_reasons(pseudo: PseudoWorlds):
    assert pseudo.failed == {1: "COLMAP placed 2 of 12 frames"}
    assert pseudo.solved == {0: 12, 2: 3, 3: 1} and not pseudo.missing
    assert pseudo.facts(0)["points"] == 7


def test_a_step_asks_for_what_there_is(pseudo: PseudoWorlds):
    wanted = Wanted(0, 2, FRAMES + 3, (56, 70), 4)
    fitted = PseudoSequences(pseudo).fit(wanted, stream(0, 0, "fit"))
    assert fitted == Wanted(0, 2, FRAMES, (SIDE, SIDE), 0)
    with pytest.raises(ValueError, match=r"ask for what fit\(\) returns"):
        PseudoSequences(pseudo).draw(wanted, stream(0, 0, "test"))


def test_training_steps_draw_them_as_labelled_scenes(pseudo: PseudoWorlds):
    data = DataConfig(images_per_batch=4, views=(2, 2), tokens=(4, 4), augment=False)
    config = TrainConfig(name="test", model=TINY, data=data, steps=1)
    views = StepBatches(config, labelled=[(PseudoSequences(pseudo), 1.0)])[0].views
    assert views.labelled and views.images.shape[-2:] == (SIDE, SIDE)


def test_a_folder_of_more_worlds_serves_for_fewer(pseudo: PseudoWorlds):
    fewer = PseudoWorlds(WorldSet("static", "unlabelled", 2), pseudo.folder)
    assert fewer.solved == {0: 12} and list(fewer.failed) == [1] and not fewer.missing


def test_labels_that_are_not_complete_are_not_learnt_from(pseudo: PseudoWorlds, tmp_path: Path):
    more = PseudoWorlds(WorldSet("static", "unlabelled", 6), pseudo.folder)
    assert more.missing == [4, 5]
    with pytest.raises(InputError, match="2 of 6 worlds have not been tried"):
        PseudoSequences(more)
    none = PseudoWorlds(WorldSet("static", "unlabelled", 1), tmp_path, {})
    none.fail(0, "nothing moved")
    with pytest.raises(InputError, match="no world has two placed frames"):
        PseudoSequences(none)


def test_labels_of_another_set_or_of_other_settings_are_refused(pseudo: PseudoWorlds, tmp_path: Path):
    with pytest.raises(InputError, match="differs in set"):
        PseudoWorlds(WorldSet("dynamic", "unlabelled", 2), pseudo.folder)
    with pytest.raises(InputError, match="other settings"):
        PseudoWorlds(SET, pseudo.folder, {"by": "another"})
    with pytest.raises(InputError, match="missing or damaged"):
        PseudoWorlds(SET, tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path):
    made = PseudoWorlds(WorldSet("static", "unlabelled", 1), tmp_path, {})
    blank = np.zeros((2, SIDE, SIDE), np.float32)
    cameras = np.tile(np.eye(4), (2, 1, 1))
    made.write(
        0, PseudoWorld(np.array([0, 1]), np.zeros((2, SIDE, SIDE, 3), np.uint8), blank, cameras[:, :3, :3], cameras)
    )
    path = tmp_path / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"00000.safetensors: missing or damaged .* take world 0 out of {INDEX}"):
        PseudoSequences(made).draw(Wanted(0, 1, 2, (SIDE, SIDE), 0), stream(0, 0, "test"))
