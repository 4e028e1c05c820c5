"""Averages that are computed block by block, into memory that is given."""

import pytest
import torch

from wskit.averaging import average
from wskit.averaging._layout import block_size
from wskit.errors import AveragingError

BLOCK = block_size(torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coefficients", [None, [0.5, 0.25, 0.25], [2.0, -1.5, 0.5]])
def test_a_block_goes_where_it_is_told(dtype, coefficients):
    draw = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(BLOCK + 9, generator=draw).to(dtype)} for _ in range(3)]
    lazy = average(models, coefficients, lazy=True)
    out = torch.empty(BLOCK - 1, dtype=dtype)
    assert lazy.read_block("w", 5, BLOCK + 4, out).data_ptr() == out.data_ptr()
    assert torch.equal(out, lazy["w"][5 : BLOCK + 4])
    exact = sum(
        c * model["w"].double()
        for c, model in zip(coefficients or [1 / 3] * 3, models, strict=True)
    )
    near = {"rtol": 2e-3, "atol": 2e-3} if dtype is torch.float16 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(lazy["w"].double(), exact, **near)


def test_a_sum_that_is_no_mean_may_overflow():
    models = [{"w": torch.tensor([value], dtype=torch.float16)} for value in (60000.0, -60000.0)]
    assert average(models, [1.0, 0.0])["w"].item() == 60000
    with pytest.raises(AveragingError, match=r"of the result overflows torch.float16"):
        average(models, [1.5, -0.5])
