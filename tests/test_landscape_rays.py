"""Random directions, edges of regions, sharpness, the Hessian."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from wskit.errors import LandscapeError
from wskit.landscape import (
    Compute,
    moved,
    one_by_one,
    random_direction,
    ray_sharpness,
    region_edges,
    top_hessian_eigenvalue,
)
from wskit.zoo import MLP


def weights():
    rng = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(6, 3, 2, 2, generator=rng)
        * torch.arange(6)[:, None, None, None],
        "conv.bias": torch.ones(6),
        "bn.weight": torch.ones(6),
        "bn.running_mean": torch.ones(6),
        "bn.running_var": torch.ones(6),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.randn(4, 6, generator=rng).double(),
    }


def test_filters_of_a_direction_have_the_norms_of_the_models():
    w = weights()
    d = random_direction(w, seed=3)
    assert {k: (t.shape, t.dtype) for k, t in d.items()} == {
        k: (t.shape, t.dtype) for k, t in w.items()
    }
    for name in ("conv.weight", "fc.weight"):
        norms = [torch.stack([f.norm() for f in t[name]]) for t in (d, w)]
        np.testing.assert_allclose(*norms, rtol=1e-6)
    for name in ("conv.bias", "bn.weight", "bn.running_mean", "bn.running_var"):
        assert not d[name].any()
    assert d["bn.num_batches_tracked"] == 0
    again, other = random_direction(w, seed=3), random_direction(w, seed=4)
    assert all(torch.equal(again[k], d[k]) for k in d)
    assert not torch.equal(other["fc.weight"], d["fc.weight"])
    # Invariance: the direction of a scaled filter is scaled with it, and points the same way.
    scaled = random_direction(w | {"fc.weight": 5 * w["fc.weight"]}, seed=3)
    np.testing.assert_allclose(scaled["fc.weight"], 5 * d["fc.weight"])


def test_a_unit_direction_is_isotropic():
    w = weights()
    d = random_direction(w, seed=0, normalize="unit")
    free = [t.double() for k, t in d.items() if "running" not in k]
    assert sum(t.square().sum() for t in free).item() == pytest.approx(1)
    assert d["conv.bias"].any()
    assert not d["bn.running_var"].any()
    flat = {"w": torch.zeros(3)}
    many = [random_direction(flat, seed=s, normalize="unit")["w"] for s in range(1000)]
    np.testing.assert_allclose(np.cov(torch.stack(many).T), np.eye(3) / 3, atol=0.03)


def test_unknown_choices_are_told(without_type_checks):
    with pytest.raises(LandscapeError, match="one of 'filter', 'unit', got 'layer'"):
        random_direction(weights(), seed=0, normalize="layer")
    with pytest.raises(LandscapeError, match=r"distances of shape \(0,\) and 10 rays"):
        ray_sharpness(bowl, CENTRE, distances=[], seed=0)


def test_moved_makes_new_tensors():
    w = weights()
    before = {k: t.clone() for k, t in w.items()}
    d = random_direction(w, seed=0)
    there = moved(w, d, 0.5)
    for k, t in w.items():
        assert torch.equal(t, before[k])
        assert there[k].data_ptr() != t.data_ptr()
        np.testing.assert_allclose(there[k], t + 0.5 * d[k], rtol=1e-6)
    with pytest.raises(LandscapeError, match=r"'fc\.weight' is in only one"):
        moved(w, {k: t for k, t in d.items() if k != "fc.weight"})


def unit(i, n=4):
    return {"w": torch.eye(n, dtype=torch.float64)[i]}


SCALE = torch.tensor([1.0, 4.0, 1e-8, 1e12], dtype=torch.float64)
CENTRE = {"w": torch.zeros(4, dtype=torch.float64)}


@one_by_one
def bowl(w):
    return (SCALE * w["w"].square()).sum()


def test_edges_of_a_bowl():
    """Below 9 the bowl of scale s ends at 3/sqrt(s); the third ray ends beyond what is tried."""
    table = region_edges(bowl, CENTRE, [unit(i) for i in range(4)], level=9.0, rtol=1e-4)
    edges = 3 / SCALE.sqrt().numpy()
    found = [0, 1, 3]
    np.testing.assert_allclose(table.alpha[found], edges[found], rtol=1e-4)
    assert (table.inside[found] < edges[found]).all()
    assert (table.outside[found] >= edges[found]).all()
    assert table.reason.tolist() == ["", "", "the loss is below the level up to 64", ""]
    assert np.isnan(table.alpha[2])
    assert np.isnan(table.outside[2])
    assert (table.inside[2], table.n_evaluations[2]) == (64, 7)  # 1, 2, 4, ..., 64
    alone = region_edges(bowl, CENTRE, [unit(1)], level=9.0, rtol=1e-4)
    assert alone.iloc[0].equals(table.iloc[1].rename(0))
    wide = region_edges(bowl, CENTRE, [unit(2)], level=9.0, largest=1e9)
    assert wide.alpha[0] == pytest.approx(3e4, rel=0.01)
    assert wide.n_evaluations[0] < 30


def test_an_edge_is_where_the_loss_is_not_below():
    """A cliff into NaN is an edge, and the first of two edges is found where steps see it."""
    cliff = one_by_one(lambda w: w["w"][0] if w["w"][0] < 5 else torch.nan)
    assert region_edges(cliff, CENTRE, [unit(0)], level=9.0).alpha[0] == pytest.approx(5, rel=0.01)
    wave = one_by_one(lambda w: torch.sin(w["w"][0]))
    table = region_edges(wave, CENTRE, [unit(0)], level=0.5, first=0.1, rtol=1e-6)
    assert table.alpha[0] == pytest.approx(np.pi / 6, rel=1e-5)
    flat = one_by_one(lambda w: float(w["w"][0] > 0))
    assert region_edges(flat, CENTRE, [unit(0)], level=0.5).outside[0] < 1e-11


def test_edges_that_cannot_be_found_are_told():
    with pytest.raises(LandscapeError, match="centre is 0, which is not below the level 0"):
        region_edges(bowl, CENTRE, [unit(0)], level=0.0)
    with pytest.raises(LandscapeError, match="0 < first <= largest"):
        region_edges(bowl, CENTRE, [unit(0)], level=1.0, first=2.0, largest=1.0)
    calls = iter(range(9))
    compute = Compute(should_stop=lambda: next(calls) >= 3)
    table = region_edges(bowl, CENTRE, [unit(0), unit(2)], level=100.0, compute=compute)
    assert table.reason.tolist() == ["stopped before the edge was found"] * 2
    assert table.inside.tolist() == [4.0, 4.0]
    assert table.n_evaluations.tolist() == [3, 3]


def test_ray_sharpness_of_a_quadratic_is_its_trace():
    """Mean increase at distance r along isotropic rays is r^2 tr(H)/(2n), with H = 2 diag(s)."""
    n = 200
    s = torch.linspace(0, 2, n, dtype=torch.float64)
    loss = one_by_one(lambda w: (s * w["w"].square()).sum() + 7)
    start = {"w": torch.zeros(n, dtype=torch.float64)}
    table = ray_sharpness(loss, start, distances=[0.5, 3.0], n_rays=64, normalize="unit", seed=0)
    mean = table.groupby("distance").increase.mean()
    np.testing.assert_allclose(mean, [0.25, 9.0], rtol=0.03)
    assert len(table) == 128
    np.testing.assert_allclose(table.loss - 7, table.increase)
    small = ray_sharpness(
        loss,
        start,
        distances=[0.5, 3.0],
        n_rays=64,
        normalize="unit",
        seed=0,
        compute=Compute(chunk_size=3),
    )
    np.testing.assert_allclose(small, table, rtol=1e-9)
    calls = iter(range(9))
    part = ray_sharpness(
        loss,
        start,
        distances=[0.5, 3.0],
        n_rays=64,
        normalize="unit",
        seed=0,
        compute=Compute(chunk_size=2, should_stop=lambda: next(calls) >= 3),
    )
    np.testing.assert_allclose(part, table[:6], rtol=1e-9)


def test_filter_normalised_sharpness_does_not_see_the_scale():
    """Two layers, the first times 10 and the second over 10: the same function of the input."""
    net = MLP((6, 5, 3))
    rng = torch.Generator().manual_seed(0)
    w = {name: torch.randn(*shape, generator=rng) for name, shape in net.shapes.items()}
    other = w | {"fc1.weight": w["fc1.weight"] * 10, "fc1.bias": w["fc1.bias"] * 10}
    other["fc2.weight"] = w["fc2.weight"] / 10
    x, y = torch.randn(20, 6, generator=rng), torch.arange(20) % 3
    loss = one_by_one(lambda v: functional.cross_entropy(net.single(v, x), y))
    tables = [ray_sharpness(loss, m, distances=[0.3], n_rays=5, seed=1) for m in (w, other)]
    np.testing.assert_allclose(tables[0].increase, tables[1].increase, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_top_eigenvalue_is_that_of_the_exact_hessian(sign):
    net = MLP((3, 4, 2))
    rng = torch.Generator().manual_seed(1)
    w = {k: torch.randn(*s, generator=rng).double() for k, s in net.shapes.items()}
    x, y = torch.randn(15, 3, generator=rng).double(), torch.arange(15) % 2

    def loss(v):
        return sign * functional.cross_entropy(net.single(v, x, "tanh"), y)

    sizes = [t.numel() for t in w.values()]

    def of_vector(flat):
        parts = flat.split(sizes)
        return loss({k: p.view(t.shape) for p, (k, t) in zip(parts, w.items(), strict=True)})

    flat = torch.cat([t.flatten() for t in w.values()])
    H = torch.autograd.functional.hessian(of_vector, flat)
    values, vectors = torch.linalg.eigh(H)
    assert values[0] < -1e-3  # so that the largest in size is not always the largest
    buffers = {"n": torch.tensor(3), "bn.running_var": torch.ones(2)}
    found = top_hessian_eigenvalue(loss, w | buffers, rtol=1e-5, n_iterations=5000, seed=0)
    assert found.converged
    assert found.value == pytest.approx(values[-1].item(), rel=1e-5)
    assert set(found.vector) == set(w)
    v = torch.cat([t.flatten() for t in found.vector.values()])
    assert v.norm().item() == pytest.approx(1)
    assert abs(v @ vectors[:, -1]).item() == pytest.approx(1, abs=1e-3)
    assert (H @ v - found.value * v).norm().item() == pytest.approx(found.residual, rel=1e-3)


def test_a_hessian_that_is_not_found_says_so():
    close = torch.tensor([1.0, 0.999])
    found = top_hessian_eigenvalue(
        lambda w: (close * w["w"].square()).sum() / 2,
        {"w": torch.ones(2)},
        n_iterations=3,
        rtol=1e-6,
        seed=0,
    )
    assert (found.converged, found.n_iterations) == (False, 3)
    assert abs(found.value - 1) <= found.residual + 0.001
    linear = top_hessian_eigenvalue(lambda w: w["w"].sum(), {"w": torch.ones(2)}, seed=0)
    assert (linear.value, linear.residual, linear.converged) == (0, 0, True)
    with pytest.raises(LandscapeError, match="product with the Hessian is NaN or inf"):
        top_hessian_eigenvalue(lambda w: w["w"].sqrt().sum(), {"w": torch.zeros(2)}, seed=0)
    with pytest.raises(LandscapeError, match="'w' of model 1 holds NaN"):
        top_hessian_eigenvalue(lambda w: w["w"].sum(), {"w": torch.tensor([torch.nan])}, seed=0)
