"""Random numbers: each seed has a stream of its own, of all its 64 bits, distributed as it says."""

import torch

from flow3r.data.draws import Draws, mix


def test_a_stream_does_not_depend_on_those_beside_it() -> None:
    together, alone = Draws([5, 2**40 + 9, 7]), Draws([2**40 + 9])
    assert torch.equal(together.unit(3, 4)[1:2], alone.unit(3, 4))
    assert torch.equal(together.normal(2)[1:2], alone.normal(2))  # nor does what comes after


def test_what_is_drawn_at_once_is_drawn_in_turn() -> None:
    at_once, in_turn = Draws([3]), Draws([3])
    assert torch.equal(at_once.unit(5), torch.cat([in_turn.unit(2), in_turn.unit(3)], dim=1))


def test_every_bit_of_a_seed_and_the_purpose_count() -> None:
    seeds = [0, 1, -1, *(2**bit for bit in range(1, 64)), 2**64 - 2]
    first = torch.cat([Draws(seeds).unit(4), Draws(seeds, purpose=1).unit(4)])
    assert len(first.unique(dim=0)) == 2 * len(seeds)
    assert torch.equal(Draws([-1]).unit(2), Draws([2**64 - 1]).unit(2))


def test_mix_is_the_published_finaliser() -> None:
    """The first outputs of SplitMix64 for seed 0, as its authors' program prints them."""
    golden = 0x9E3779B97F4A7C15
    states = [(step * golden) % 2**64 for step in (1, 2, 3)]
    mixed = mix(torch.tensor([state - 2**64 if state >= 2**63 else state for state in states]))
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(value) % 2**64 for value in mixed] == expected


def test_draws_are_distributed_as_they_say() -> None:
    draws = Draws(range(50))
    unit = draws.unit(2000)
    assert unit.min() > 0 and unit.max() < 1
    assert (torch.histogram(unit, 20, range=(0.0, 1.0)).hist / unit.numel() - 0.05).abs().max() < 0.003
    assert torch.corrcoef(unit).fill_diagonal_(0).abs().max() < 0.12  # between seeds that follow each other
    normal = draws.normal(2000)
    assert normal.isfinite().all() and abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    log = draws.log_uniform(0.01, 100.0, 2000).log10()
    assert abs(log.mean()) < 0.03 and log.min() >= -2.001 and log.max() <= 2.001
    integers = draws.integer(3, 2000)
    assert set(integers.unique().tolist()) == {0, 1, 2}
    assert abs(draws.chance(0.3, 2000).float().mean() - 0.3) < 0.01
