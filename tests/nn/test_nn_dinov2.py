import dataclasses

import torch
from torch import nn

from flow3r.config import EncoderConfig
from flow3r.nn.dinov2 import DinoV2

CONFIG = EncoderConfig(width=8, depth=1, heads=2, position_grid=6, registers=2)


def encoder_with(table: torch.Tensor) -> DinoV2:
    """An encoder whose learned positions are the given (rows, columns, 8) table."""
    encoder = DinoV2(CONFIG)
    encoder.position_table.data[:, 1:] = table.flatten(0, 1)
    return encoder


def test_positions_are_untouched_at_their_own_size():
    table = torch.randn(6, 6, 8)
    assert torch.equal(encoder_with(table).positions(6, 6), table.flatten(0, 1)[None])


def test_constant_positions_stay_constant_on_any_grid():
    table = torch.randn(8).expand(6, 6, 8)
    for rows, columns in ((1, 1), (3, 9), (7, 2), (12, 12)):
        positions = encoder_with(table).positions(rows, columns)
        assert positions.shape == (1, rows * columns, 8)
        torch.testing.assert_close(positions, table[0, :1].expand_as(positions), atol=1e-5, rtol=1e-5)


def test_positions_that_vary_along_a_row_still_do():
    table = torch.arange(6.0)[None, :, None].expand(6, 6, 8)  # by column
    positions = encoder_with(table).positions(3, 9).unflatten(1, (3, 9))
    assert (positions.diff(dim=2) > 0).all()
    torch.testing.assert_close(positions[:, 0], positions[:, 2], atol=1e-5, rtol=1e-5)


def test_resampling_transposes_with_the_table():
    table = torch.randn(6, 6, 8)
    there = encoder_with(table).positions(3, 10).unflatten(1, (3, 10))
    back = encoder_with(table.transpose(0, 1)).positions(10, 3).unflatten(1, (10, 3))
    torch.testing.assert_close(there, back.transpose(1, 2))


def test_shrinking_averages_instead_of_skipping():
    checks = (torch.arange(6)[:, None] + torch.arange(6)) % 2 * 2.0 - 1
    positions = encoder_with(checks[..., None].expand(6, 6, 8)).positions(2, 2)
    assert positions.abs().max() < 0.2  # without antialiasing a checkerboard would come through


def test_positions_learn_through_the_resampling():
    encoder = encoder_with(torch.randn(6, 6, 8))
    encoder.positions(2, 3).sum().backward()
    assert (encoder.position_table.grad[:, 1:] != 0).all() and (encoder.position_table.grad[:, 0] == 0).all()


def test_registers_bear_no_position():
    encoder, patches = DinoV2(CONFIG), torch.randn(2, 5, 8)
    tokens = encoder.with_specials(patches)
    torch.testing.assert_close(tokens[:, 0], (encoder.class_token + encoder.position_table[:, :1])[0].expand(2, -1))
    torch.testing.assert_close(tokens[:, 1:3], encoder.register_tokens.expand(2, -1, -1))
    assert torch.equal(tokens[:, 3:], patches)


def test_each_patch_stands_where_it_was_in_the_image():
    encoder = DinoV2(dataclasses.replace(CONFIG, depth=0))
    encoder.norm = nn.Identity()
    encoder.patch_embed.weight.data.fill_(1 / (3 * 14 * 14))  # the mean of a patch
    encoder.patch_embed.bias.data.zero_()
    encoder.position_table.data.zero_()
    means = torch.rand(2, 1, 2, 3)
    images = means.repeat_interleave(14, 2).repeat_interleave(14, 3).expand(2, 3, 28, 42)
    torch.testing.assert_close(encoder(images), means[:, 0, :, :, None].expand(2, 2, 3, 8))


def test_images_of_a_batch_do_not_meet():
    encoder, images = DinoV2(CONFIG), torch.randn(3, 3, 28, 42)
    together = encoder(images)
    torch.testing.assert_close(together[1:2], encoder(images[1:2]), atol=1e-5, rtol=1e-5)
