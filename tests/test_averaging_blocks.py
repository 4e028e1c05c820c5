"""Averages that are computed block by block, into memory that is given."""

from types import MappingProxyType

import pytest
import torch

from wskit._weights import block_size
from wskit.averaging import _lazy, average, fisher_average, slerp
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


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Look for NaN as where each look waits; return what is looked at before the end."""
    looked = []
    monkeypatch.setattr(_lazy, "waits", lambda device: True)
    monkeypatch.setattr(_lazy, "all_finite", lambda x: looked.append(x) or bool(x.isfinite().all()))
    return looked


def pair(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "v": torch.randn(3, generator=draw).to(dtype),
            "w": torch.ones(2, 5, dtype=dtype) * (i + 1),
        }
        for i in range(2)
    ]


def by_fisher(models):
    return fisher_average(models, [{name: t.abs() + 1 for name, t in m.items()} for m in pair()])


def from_elsewhere(models):
    return average([MappingProxyType(model) for model in models])


@pytest.mark.parametrize(
    "merge", [average, from_elsewhere, by_fisher, lambda models: slerp(*models, 0.25)]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_gpu_is_waited_for_once(as_on_a_gpu, merge, value, dtype):
    models = pair(dtype)
    found = merge(models)
    assert not as_on_a_gpu  # no tensor by itself
    assert found["w"].shape == (2, 5) and found["w"].isfinite().all()
    models[1]["w"][1, 2] = value
    with pytest.raises(AveragingError, match="'w' of model 2 holds NaN or inf in 1 of its 10"):
        merge(models)
    with pytest.raises(AveragingError, match="'w' of model 2 holds NaN or inf in 1 of its 10"):
        average(models, lazy=True)["w"]


def test_on_a_gpu_large_sums_are_no_error_and_overflows_are(as_on_a_gpu):
    huge = {"w": torch.full((4,), 1e38)}
    assert torch.equal(average([huge, huge])["w"], huge["w"])
    assert len(as_on_a_gpu) == 1  # the sum of its entries is inf
    with pytest.raises(AveragingError, match=r"of the result overflows torch.float16"):
        average([{"w": torch.tensor([x], dtype=torch.float16)} for x in (6e4, -6e4)], [1.5, -0.5])


def test_models_are_called_by_their_names():
    models = dict(zip(("seed 3", "seed 5"), pair(), strict=True))
    assert torch.equal(average(models)["v"], average(list(models.values()))["v"])
    models["seed 5"]["w"][0, 0] = float("nan")
    with pytest.raises(AveragingError, match="'w' of seed 5 holds NaN"):
        average(models)
    del models["seed 5"]["w"]
    with pytest.raises(AveragingError, match="'w' is in seed 3 and not in seed 5"):
        average(models)
