import pytest
import torch

from flow3r.errors import InputError
from flow3r.nn.precision import choose_device, fast_dtype, product_dtype


def test_a_device_that_is_not_there_is_refused_with_its_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(InputError, match=f"device {name}: cannot be used here .*take cpu"):
            choose_device(name)


def test_the_type_of_products_is_what_a_linear_layer_returns():
    layer = torch.nn.Linear(2, 2)
    for x, enabled in ((torch.ones(1, 2), False), (torch.ones(1, 2), True), (torch.ones(1, 2).bfloat16(), True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert product_dtype(x) == layer(x).dtype
    assert product_dtype(torch.ones(1).double()) == torch.float64


def test_the_fast_type_is_one_that_the_device_can_multiply_in():
    dtype = fast_dtype(torch.device("cpu"))
    assert dtype in (torch.float32, torch.bfloat16)
    assert torch.isfinite(torch.ones(2, 2, dtype=dtype) @ torch.ones(2, 2, dtype=dtype)).all()
    assert fast_dtype(torch.device("meta")) == torch.float32
