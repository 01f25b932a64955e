import pytest
import torch

from flow3r.nn.rope import RotaryTable, rotary_table, rotate

CPU = torch.device("cpu")


def table(rows: int, columns: int, specials: int, width: int, dtype: torch.dtype = torch.float32) -> RotaryTable:
    return rotary_table(rows, columns, specials, width, 100.0, CPU, dtype)


def turn(vector: torch.Tensor, position: float, base: float) -> torch.Tensor:
    """The reference: channel k and k + n turn as a complex number, by position · base^(-k / n)."""
    n = len(vector) // 2
    angle = position * base ** (-torch.arange(n, dtype=torch.float64) / n)
    turned = torch.complex(vector[:n], vector[n:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag])


def test_first_half_turns_with_y_plus_1_and_second_with_x_plus_1():
    rows, columns, specials = 2, 3, 2
    x = torch.randn(1, 1, specials + rows * columns, 16, dtype=torch.float64)
    got = rotate(x, table(rows, columns, specials, 16, torch.float64))[0, 0]
    for row in range(rows):
        for column in range(columns):
            token = specials + row * columns + column
            y_half, x_half = x[0, 0, token].chunk(2)
            expected = torch.cat([turn(y_half, row + 1, 100.0), turn(x_half, column + 1, 100.0)])
            torch.testing.assert_close(got[token], expected, atol=1e-6, rtol=1e-6)


def test_special_tokens_do_not_turn_and_lengths_stay():
    x = torch.randn(2, 3, 4 + 6, 8)
    got = rotate(x, table(2, 3, 4, 8))
    assert torch.equal(got[..., :4, :], x[..., :4, :])
    torch.testing.assert_close(got.norm(dim=-1), x.norm(dim=-1))


def test_products_depend_on_relative_position_alone():
    rows, columns = 5, 6
    q, k = torch.randn(2, 16, dtype=torch.float64)
    turns = table(rows, columns, 0, 16, torch.float64)
    everywhere = [rotate(v.expand(1, 1, rows * columns, 16), turns).view(rows, columns, 16) for v in (q, k)]
    product = torch.einsum("yxd,vud->yxvu", *everywhere)
    torch.testing.assert_close(product[:-1, :-2, :-1, :-2], product[1:, 2:, 1:, 2:], atol=1e-5, rtol=1e-5)
    assert (product[0, 0] - product[0, 0, 0, 0]).abs().max() > 0.1


def test_views_one_after_the_other_turn_like_each_alone():
    one_view = table(2, 2, 1, 8)
    views = torch.randn(2, 3, 4, 5, 8)  # (B, heads, views, tokens, D)
    together = rotate(views.flatten(2, 3), one_view).unflatten(2, (4, 5))
    torch.testing.assert_close(together, torch.stack([rotate(v, one_view) for v in views.unbind(2)], dim=2))


def test_a_table_first_made_in_inference_serves_training():
    rotary_table.cache_clear()
    with torch.inference_mode():
        table(2, 2, 0, 8)
    x = torch.randn(1, 1, 4, 8, requires_grad=True)
    rotate(x, table(2, 2, 0, 8)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps the square


def test_a_table_in_bf16_rounds_cosines_not_angles():
    exact, rounded = table(30, 30, 0, 8), table(30, 30, 0, 8, torch.bfloat16)
    for one, other in zip(exact, rounded):
        torch.testing.assert_close(other.float(), one, atol=4e-3, rtol=0)  # rounded angles are off by 0.1


def test_two_axes_of_pairs_need_a_head_width_of_four():
    with pytest.raises(ValueError, match="6 wide"):
        table(2, 2, 0, 6)
