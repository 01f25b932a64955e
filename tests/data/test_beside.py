"""What is made beside the training step: the same, in the same order, never far ahead, and by a thread that ends."""

import os
import threading
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.beside import AHEAD, made_beside
from flow3r.data.mixture import RenderedWorlds, Source, StepBatches, Wanted, iterate_batches
from flow3r.presets import PRESETS
from flow3r.types import OnDevice, Views

CPU = torch.device("cpu")
DATA = DataConfig(
    views=(2, 2),
    images_per_batch=4,
    tokens=(4, 4),
    aspect=(1, 1),
    pairs_per_scene=2,
    workers=1,
    unlabelled_share=0.5,
    augment=False,
)
CONFIG = TrainConfig(name="test", model=PRESETS["nano"].model, data=DATA, steps=8)


@dataclass(frozen=True)
class Made(OnDevice):
    step: int
    number: Tensor


def make(step: int) -> Made:
    return Made(step, torch.tensor(step))


class Worlds(RenderedWorlds):
    """Rendered as on an accelerator; the names say where, by process and thread."""

    in_process = True

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        views = super().draw(wanted, generator)
        return Views(views.images, flow=views.flow, names=(here(),))


class Clips(Source):
    """Noise, of another process."""

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        return Views(torch.rand(wanted.scenes, wanted.views, 3, *wanted.size, generator=generator), names=(here(),))


def here() -> tuple[str, str]:
    return str(os.getpid()), threading.current_thread().name


def until(holds) -> bool:
    """Whether it comes to hold within some seconds."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)
    return bool(holds())


def test_everything_is_made_in_order():
    made = list(made_beside(make, iter([3, 4, 8, 9, 11]), CPU, threading.Lock()))
    assert [one.step for one in made] == [3, 4, 8, 9, 11] == [int(one.number) for one in made]
    assert list(made_beside(make, [], CPU, threading.Lock())) == []


def test_it_is_as_far_ahead_as_it_may_be_and_no_further():
    begun: list[int] = []
    made = made_beside(lambda step: begun.append(step) or make(step), range(9), CPU, threading.Lock())
    for taken in range(4):
        assert next(made).step == taken
        assert until(lambda taken=taken: len(begun) == taken + 1 + AHEAD)
    time.sleep(0.02)
    assert begun == list(range(4 + AHEAD))
    made.close()


def test_an_error_arrives_where_its_step_is_taken():
    def failing(step: int) -> Made:
        if step == 2:
            raise OSError("no such world")
        return make(step)

    made = made_beside(failing, range(5), CPU, threading.Lock())
    assert [next(made).step, next(made).step] == [0, 1]
    with pytest.raises(OSError, match="no such world"):
        next(made)


def test_the_thread_rests_while_it_is_told_to_and_ends_with_whom_it_works_for():
    idle, begun = threading.Lock(), []
    made = made_beside(lambda step: begun.append(step) or make(step), range(99), CPU, idle)
    next(made)
    assert until(lambda: len(begun) == 1 + AHEAD)
    with idle:
        next(made)
        time.sleep(0.02)
        assert len(begun) == 1 + AHEAD
    assert until(lambda: len(begun) == 2 + AHEAD)
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("beside")]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_same_whoever_makes_them(workers: int):
    config = TrainConfig(**{**CONFIG.__dict__, "data": DataConfig(**{**DATA.__dict__, "workers": workers})})
    expected = StepBatches(config, Clips(), labelled=Worlds(DATA))
    makers = set()
    for step, views in enumerate(iterate_batches(config, 0, Clips(), CPU, labelled=Worlds(DATA))):
        assert views.images.equal(expected[step].views.images)
        process, thread = views.names[0]
        makers.add((views.flow is not None, process == str(os.getpid()), thread.split("_")[0]))
    beside, elsewhere = (True, True, "beside"), (False, False, "MainThread")
    assert makers == ({beside, elsewhere} if workers else {(True, True, "MainThread"), (False, True, "MainThread")})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_worlds_are_those_that_are_rendered_when_they_are_asked_for():
    device = torch.device("cuda")
    expected = StepBatches(CONFIG, device=device)
    for step, views in enumerate(iterate_batches(CONFIG, 0, None, device)):
        assert views.images.is_cuda and views.images.equal(expected[step].views.images)
