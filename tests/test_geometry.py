"""Vectors, distances and projections; permutations are in test_geometry_matching.py."""

import gc
import weakref

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA
from torch import nn

from wskit._base.weights import LazyWeights
from wskit.errors import GeometryError
from wskit.geometry import (
    flatten,
    project_updates,
    unflatten,
    weight_distances,
)

SHAPES = {"a.weight": (4, 3, 2), "a.bias": (4,), "b.weight": (5, 4), "b.scale": ()}


def models_of(n, *, seed=0, scale=1.0, dtype=torch.float32, around=None):
    generator = torch.Generator().manual_seed(seed)
    models = []
    for _ in range(n):
        weights = {k: torch.randn(s, generator=generator, dtype=dtype) for k, s in SHAPES.items()}
        if around is not None:
            weights = {k: around[k] + scale * weights[k] for k in weights}
        models.append(weights)
    return models


def vectors_of(models, base=None):
    """Weights, or updates, of all models in the rows of a float64 array."""
    rows = []
    for weights in models:
        parts = [weights[k].double() - (0 if base is None else base[k].double()) for k in SHAPES]
        rows.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
    return np.array(rows)


# --- vectors ----------------------------------------------------------------------------------


def test_flatten_is_undone_by_unflatten():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    weights = module.state_dict()
    vector = flatten(module)
    floating = {k: v for k, v in weights.items() if v.is_floating_point()}
    assert torch.equal(vector, torch.cat([v.flatten() for v in floating.values()]))
    back = unflatten(vector, module)
    assert back.keys() == floating.keys()
    assert all(torch.equal(back[name], value) for name, value in floating.items())
    turned = {name: weights[name] for name in reversed(weights)}
    assert torch.equal(flatten(turned, module), vector)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_vector_is_float32_or_better_and_tensors_keep_their_dtype(dtype):
    weights = {"w": torch.tensor([0.1, 0.2]).to(dtype), "v": torch.ones(1, dtype=torch.float16)}
    vector = flatten(weights)
    assert vector.dtype is torch.promote_types(dtype, torch.float32)
    back = unflatten(vector, weights)
    assert back["w"].dtype is dtype
    assert torch.equal(back["w"], weights["w"])


def test_flatten_copies_and_unflatten_lets_gradients_through():
    weights = {"w": torch.ones(2, requires_grad=True)}
    vector = flatten(weights)
    vector[0] = 5
    assert weights["w"].tolist() == [1, 1]
    vector.requires_grad_()
    (unflatten(vector, weights)["w"] ** 2).sum().backward()
    assert vector.grad.tolist() == [10, 2]


def test_many_vectors_are_cut_into_stacked_tensors():
    models = models_of(3)
    stacked = unflatten(torch.stack([flatten(m) for m in models]), models[0])
    for name in SHAPES:
        assert torch.equal(stacked[name], torch.stack([m[name] for m in models]))


def test_tied_tensors_are_taken_once_and_stay_tied():
    module = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    module["head"].weight = module["embed"].weight
    assert flatten(module).numel() == 15
    back = unflatten(flatten(module), module)
    assert back["head.weight"] is back["embed.weight"]


def test_what_does_not_fit_in_a_vector_is_named():
    first, second = models_of(2)
    for change in ({"a.bias": torch.ones(5)}, {"a.bias": torch.full((4,), torch.nan)}):
        with pytest.raises(GeometryError, match=r"a\.bias"):
            flatten(second | change, first)
    with pytest.raises(GeometryError, match="'c' is in"):
        flatten(second | {"c": torch.ones(1)}, first)
    with pytest.raises(GeometryError, match=r"has 49 entries, got the shape \(3,\)"):
        unflatten(torch.zeros(3), first)


# --- distances --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "mapping", "stacked"])
@pytest.mark.parametrize("block_bytes", [1, 8 * 7 * 5, 2**26])
def test_distances_equal_the_naive_ones(form, block_bytes):
    models, base = models_of(7), models_of(1, seed=1)[0]
    given = {
        "list": models,
        "mapping": {f"m{i}": model for i, model in enumerate(models)},
        "stacked": {k: torch.stack([m[k] for m in models]) for k in SHAPES},
    }[form]
    distances = weight_distances(given, base, block_bytes=block_bytes)
    updates = vectors_of(models, base)
    np.testing.assert_allclose(distances.euclidean(), squareform(pdist(updates)), rtol=1e-12)
    np.testing.assert_allclose(distances.update_norms(), np.linalg.norm(updates, axis=1))
    cosine = 1 - squareform(pdist(updates, "cosine"))
    np.testing.assert_allclose(distances.cosine(), cosine, atol=1e-13)
    off = ~np.eye(7, dtype=bool)
    np.testing.assert_allclose(distances.angle()[off], np.arccos(cosine)[off], atol=1e-12)
    assert (np.diag(distances.angle()) == 0).all()
    assert (np.diag(distances.cosine()) == 1).all()
    for array in (distances.squared, distances.squared_updates):
        assert not array.flags.writeable


def test_tensors_are_measured_each_and_add_up():
    models, base = models_of(5), models_of(1, seed=1)[0]
    distances, whole = weight_distances(models, base, by="tensor"), weight_distances(models, base)
    assert distances.groups == tuple(SHAPES)
    for name in SHAPES:
        expected = squareform(pdist(np.array([m[name].double().ravel() for m in models])))
        np.testing.assert_allclose(distances.euclidean(name), expected, rtol=1e-11)
    np.testing.assert_allclose(distances.euclidean(), whole.euclidean(), rtol=1e-12)
    np.testing.assert_allclose(distances.cosine(), whole.cosine())


@pytest.mark.parametrize("with_base", [False, True])
def test_close_models_keep_their_distances(with_base):
    """Perturbations of 1e-6, of one model and of each of two that are far apart."""
    far = models_of(3, dtype=torch.float64)
    models = [m for center in far[:2] for m in models_of(4, scale=1e-6, seed=2, around=center)]
    models = [{k: v.double() for k, v in m.items()} for m in models]
    base = {k: 100 * v for k, v in far[2].items()}
    for chosen in (models[:4], models):
        rows = vectors_of(chosen)
        expected = squareform(pdist(rows))
        assert expected[0, 1] < 1e-5 * np.linalg.norm(rows[0])
        found = weight_distances(chosen, base if with_base else None).euclidean()
        # The oracle's own rounding is that of numbers of the size of the weights.
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-13)


def test_small_angles_are_kept():
    weights = [{"w": torch.tensor([1.0, x], dtype=torch.float64)} for x in (0.0, 1e-9, 1e-5)]
    distances = weight_distances(weights, {"w": torch.zeros(2, dtype=torch.float64)})
    np.testing.assert_allclose(distances.angle()[0], [0, 1e-9, 1e-5], rtol=1e-6)


def test_equal_models_have_distance_zero_and_unmoved_ones_no_angle():
    base, moved = models_of(2)
    distances = weight_distances([base, moved, moved, base], base)
    assert distances.euclidean()[1, 2] == 0 == distances.euclidean()[0, 3]
    assert distances.update_norms()[[0, 3]].tolist() == [0, 0]
    for values in (distances.cosine(), distances.angle()):
        assert np.isnan(values[0]).all()
        assert np.isnan(values[:, 3]).all()
        assert np.isfinite(values[1:3, 1:3]).all()


def test_half_precision_is_subtracted_in_float64():
    weights = [{"w": torch.full((1000,), x).to(torch.bfloat16)} for x in (1.0, 1.0078125)]
    assert weight_distances(weights).euclidean()[0, 1] == pytest.approx(0.0078125 * 1000**0.5)


def test_tied_tensors_count_once_and_integers_not_at_all():
    models = []
    for x in (0.0, 1.0):
        w = torch.full((4,), x)
        models.append({"w": w, "tied": w, "n": torch.tensor(int(100 * x))})
    assert weight_distances(models).euclidean()[0, 1] == 2


def test_names_choose_the_tensors_that_models_share():
    models = models_of(3)
    for i, weights in enumerate(models):
        weights["head"] = torch.ones(i + 1)
        weights[f"head{i}"] = torch.ones(2)
    distances = weight_distances(models, names=list(SHAPES))
    np.testing.assert_allclose(distances.euclidean(), squareform(pdist(vectors_of(models))))


class Counted(LazyWeights):
    """A model that makes its tensors when they are read, and counts those that are alive."""

    alive = 0
    most = 0
    read = 0

    def __init__(self, seed):
        self.seed = seed

    def shape(self, name):
        return (50, 20)

    def dtype(self, name):
        return torch.float32

    def __getitem__(self, name):
        cls = Counted
        tensor = torch.full((50, 20), float(self.seed))
        cls.alive, cls.read = cls.alive + 1, cls.read + 1
        cls.most = max(cls.most, cls.alive)
        weakref.finalize(tensor, self.forget)
        return tensor

    @classmethod
    def forget(cls):
        cls.alive -= 1

    def __iter__(self):
        return iter(["a", "b", "c"])

    def __len__(self):
        return 3


@pytest.mark.parametrize("block_bytes", [8 * 30 * 250, 2**26])
def test_tensors_are_held_one_at_a_time(block_bytes, monkeypatch, without_type_checks):
    largest = []
    empty = torch.empty

    def watched(*shape, **options):
        largest.append(8 * int(np.prod(shape)))
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", watched)
    gc.collect()
    Counted.most = Counted.read = Counted.alive = 0
    distances = weight_distances([Counted(i) for i in range(30)], block_bytes=block_bytes)
    assert distances.euclidean()[0, 1] == pytest.approx(3000**0.5)
    assert Counted.most <= 2  # the one that was read last goes when the next is there
    blocks = -(-8 * 30 * 1000 // block_bytes)
    assert Counted.read <= 30 * 3 * blocks + 1
    assert max(largest) <= block_bytes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: weight_distances(m, by="block"), r"by must be one of .* got 'block'"),
        (lambda m: weight_distances(m[0]), "first axes of .* put a single model in a list"),
        (lambda m: weight_distances(m, {"a.bias": torch.ones(4)}), "not in the base"),
        (
            lambda m: weight_distances([*m, m[0] | {"b.scale": torch.tensor(torch.inf)}]),
            "tensor 'b.scale' of model 4 holds NaN or inf, and so do 0 other models",
        ),
        (
            lambda m: weight_distances(m, m[0] | {"b.scale": torch.tensor(torch.nan)}),
            "tensor 'b.scale' of the base holds NaN or inf",
        ),
    ],
)
def test_distances_say_what_is_wrong(call, message, without_type_checks):
    with pytest.raises(GeometryError, match=message):
        call(models_of(3))


# --- projection -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 80])
def test_projection_equals_pca_of_the_vectors(n):
    models, base = models_of(n), models_of(1, seed=1)[0]
    projection = project_updates(weight_distances(models, base), n_components=3)
    vectors = vectors_of(models)
    pca = PCA(3, svd_solver="full").fit(vectors)
    signs = np.sign((projection.coordinates * pca.transform(vectors)).sum(axis=0))
    np.testing.assert_allclose(projection.coordinates, signs * pca.transform(vectors), atol=1e-9)
    np.testing.assert_allclose(projection.base, (signs * pca.transform(vectors_of([base])))[0])
    assert project_updates(weight_distances(models)).base is None
    np.testing.assert_allclose(projection.explained_variance_ratio, pca.explained_variance_ratio_)
    largest = np.abs(projection.coordinates).argmax(axis=0)
    assert (projection.coordinates[largest, range(3)] > 0).all()


def test_a_projection_needs_as_many_dimensions():
    models = models_of(3)
    with pytest.raises(GeometryError, match=r"from 1 to 2, .* these 3 models span, got 3"):
        project_updates(weight_distances(models), n_components=3)
    with pytest.raises(GeometryError, match="from 1 to 0"):
        project_updates(weight_distances(models[:1] * 2), n_components=1)
