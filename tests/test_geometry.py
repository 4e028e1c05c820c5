"""Layouts, distances and projections; permutations are in test_geometry_matching.py."""

import gc
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA
from torch import nn

from wskit.errors import GeometryError
from wskit.geometry import flatten, layout_of, project_updates, unflatten, weight_distances

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


# --- layout -----------------------------------------------------------------------------------


def test_flatten_is_undone_by_unflatten():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    weights = module.state_dict()
    layout = layout_of(weights)
    vector = flatten(weights, layout)
    floating = {k: v for k, v in weights.items() if v.is_floating_point()}
    torch.testing.assert_close(vector, torch.cat([v.flatten() for v in floating.values()]))
    assert layout.left_out == ("1.num_batches_tracked",)
    back = unflatten(vector, layout)
    assert back.keys() == floating.keys()
    assert all(torch.equal(back[name], value) for name, value in floating.items())
    module.load_state_dict({**weights, **back})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_vector_is_float32_or_better_and_tensors_keep_their_dtype(dtype, expected):
    weights = {"w": torch.tensor([0.1, 0.2]).to(dtype), "v": torch.ones(1, dtype=torch.float16)}
    layout = layout_of(weights)
    vector = flatten(weights, layout)
    assert vector.dtype is expected
    back = unflatten(vector, layout)
    assert back["w"].dtype is dtype
    assert torch.equal(back["w"], weights["w"])


def test_flatten_copies_and_unflatten_lets_gradients_through():
    weights = {"w": torch.ones(2, requires_grad=True)}
    layout = layout_of(weights)
    vector = flatten(weights, layout)
    vector[0] = 5
    assert weights["w"].tolist() == [1, 1]
    vector.requires_grad_()
    (unflatten(vector, layout)["w"] ** 2).sum().backward()
    assert vector.grad.tolist() == [10, 2]


def test_many_vectors_are_cut_into_stacked_tensors():
    models = models_of(3)
    layout = layout_of(models[0])
    stacked = unflatten(torch.stack([flatten(m, layout) for m in models]), layout)
    for name in SHAPES:
        assert torch.equal(stacked[name], torch.stack([m[name] for m in models]))


def test_tied_tensors_are_counted_once_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    weights = Tied().state_dict()
    layout = layout_of(weights)
    assert layout.size == 15
    assert layout.ties == (("head.weight", "embed.weight"),)
    back = unflatten(flatten(weights, layout), layout)
    assert back["head.weight"] is back["embed.weight"]
    assert layout_of(weights, names=["head.weight"]).slots[0].name == "head.weight"


def test_ties_of_a_lazy_mapping_are_its_own_word():
    class Lazy(dict):
        @property
        def ties(self):
            return {"b": "a"}

    lazy = Lazy(a=torch.ones(2), b=torch.ones(2))
    assert layout_of(lazy).size == 2
    assert layout_of(dict(lazy)).size == 4


def test_header_only_is_read_where_there_is_one(without_type_checks):
    class Header(Mapping):
        def shape(self, name):
            return (2, 2)

        def dtype(self, name):
            return torch.float16

        def __getitem__(self, name):
            raise AssertionError("read")

        def __iter__(self):
            return iter("ab")

        def __len__(self):
            return 2

    assert layout_of(Header()).size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, r"these weights have no tensor 'a.bias'; give the names"),
        ({"c": torch.ones(1)}, r"have a tensor 'c' that the first has not"),
        ({"a.bias": torch.ones(5)}, r"'a.bias' of these weights has the shape \(5,\) instead of"),
        ({"a.bias": torch.tensor([1, 2, 3, torch.nan])}, r"'a.bias' holds NaN or inf"),
    ],
)
def test_flatten_names_the_tensor_that_is_wrong(change, message):
    weights = models_of(1)[0]
    layout = layout_of(weights)
    wrong = {k: v for k, v in (weights | change).items() if v is not None}
    with pytest.raises(GeometryError, match=message):
        flatten(wrong, layout)


def test_layouts_say_what_is_wrong():
    weights = models_of(1)[0]
    with pytest.raises(GeometryError, match="'x' is not the name of a floating tensor"):
        layout_of(weights, names=["a.bias", "x"])
    with pytest.raises(GeometryError, match="no floating tensor"):
        layout_of({"n": torch.tensor(3)})
    with pytest.raises(GeometryError, match="tensor 'z' is complex"):
        layout_of({"z": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(GeometryError, match=r"a vector of 49 entries, got the shape \(3,\)"):
        unflatten(torch.zeros(3), layout_of(weights))
    assert issubclass(GeometryError, ValueError)


def test_a_part_of_the_weights_does_not_mind_the_rest():
    first, second = models_of(2)
    layout = layout_of(first, names=["a.bias"])
    assert flatten({"a.bias": second["a.bias"], "head": torch.ones(3)}, layout).numel() == 4


# --- distances --------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 8 * 7 * 5, 2**26])
def test_distances_equal_the_naive_ones(stacked, block_bytes):
    models, base = models_of(7), models_of(1, seed=1)[0]
    given = {k: torch.stack([m[k] for m in models]) for k in SHAPES} if stacked else models
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
    assert distances.n_parameters == (49,)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("model", {"model": list(SHAPES)}),
        ("layer", {"a": ["a.weight", "a.bias"], "b": ["b.weight", "b.scale"]}),
        ("tensor", {name: [name] for name in SHAPES}),
    ],
)
def test_groups_are_measured_each_and_add_up(by, groups):
    models, base = models_of(5), models_of(1, seed=1)[0]
    distances = weight_distances(models, base, by=by)
    assert distances.groups == tuple(groups)
    for group, names in groups.items():
        rows = np.array([np.concatenate([m[k].double().ravel() for k in names]) for m in models])
        expected = squareform(pdist(rows))
        np.testing.assert_allclose(distances.euclidean(group), expected, rtol=1e-11)
    np.testing.assert_allclose(
        distances.euclidean(), weight_distances(models).euclidean(), rtol=1e-12
    )
    np.testing.assert_allclose(distances.cosine(), weight_distances(models, base).cosine())


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
        near = expected[0, 1]
        assert near < 1e-5 * np.linalg.norm(rows[0])
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


def test_distances_are_invariant():
    """A common shift and a rotation by an orthogonal matrix leave distances; scale scales."""
    models = models_of(6)
    expected = weight_distances(models).euclidean()
    shift = models_of(1, seed=9)[0]
    shifted = [{k: m[k].double() + shift[k].double() for k in m} for m in models]
    np.testing.assert_allclose(weight_distances(shifted).euclidean(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        weight_distances([{k: 4 * v for k, v in m.items()} for m in models]).euclidean(),
        4 * expected,
        rtol=1e-12,
    )
    order = [3, 1, 5, 0, 2, 4]
    permuted = weight_distances([models[i] for i in order]).euclidean()
    np.testing.assert_allclose(permuted, expected[np.ix_(order, order)], rtol=1e-12)


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


class Counted(Mapping):
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


def test_results_are_read_only():
    distances = weight_distances(models_of(3), models_of(1)[0])
    for array in (distances.squared, distances.squared_updates):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: weight_distances([]), "distances need models, and there are none"),
        (lambda m: weight_distances(m, by="block"), r"by must be one of .* got 'block'"),
        (lambda m: weight_distances(m).cosine(), r"without the base w0; call weight_distances"),
        (lambda m: weight_distances(m).euclidean("c"), "no group 'c'; the groups are model"),
        (lambda m: weight_distances(m[0]), "first axes are .* give a single model in a list"),
        (lambda m: weight_distances(m, {"a.bias": torch.ones(4)}), "weights of the base have no"),
        (lambda m: weight_distances([*m, {}]), "the weights of model 3 have no tensor 'a.weight'"),
        (
            lambda m: weight_distances([*m, m[0] | {"b.scale": torch.tensor(torch.inf)}]),
            "tensor 'b.scale' of model 3 holds NaN or inf, and so do 0 other models",
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_distances_on_cuda_equal_those_on_cpu():
    models, base = models_of(7), models_of(1, seed=1)[0]
    on_cpu, on_gpu = (weight_distances(models, base, device=d) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.euclidean(), on_cpu.euclidean(), rtol=1e-11)


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
    np.testing.assert_allclose(projection.explained_variance_ratio, pca.explained_variance_ratio_)
    np.testing.assert_allclose(projection.loadings @ vectors, (pca.components_.T * signs).T)
    largest = np.abs(projection.coordinates).argmax(axis=0)
    assert (projection.coordinates[largest, range(3)] > 0).all()


def test_coefficients_give_the_weights_at_a_point():
    models = models_of(5)
    projection = project_updates(weight_distances(models))
    points = np.array([[0.0, 0.0], [1.0, -2.0]])
    weights = projection.coefficients(points) @ vectors_of(models)
    pca = PCA(2, svd_solver="full").fit(vectors_of(models))
    np.testing.assert_allclose(weights[0], vectors_of(models).mean(axis=0), atol=1e-12)
    assert np.linalg.norm(weights[1] - weights[0]) == pytest.approx(5**0.5)
    np.testing.assert_allclose(np.abs(pca.transform(weights)), np.abs(points), atol=1e-9)
    np.testing.assert_allclose(projection.coefficients([3.0, 4.0]).sum(), 1)


def test_projection_of_one_layer_and_without_a_base():
    models = models_of(6)
    layered = weight_distances(models, by="layer")
    alone = weight_distances([{k: m[k] for k in m if k[0] == "b"} for m in models])
    found, expected = project_updates(layered, group="b"), project_updates(alone)
    np.testing.assert_allclose(found.coordinates, expected.coordinates, atol=1e-9)
    assert found.base is None


def test_projections_say_what_is_wrong():
    models = models_of(3)
    message = "3 components were asked for, and these 3 models span 2 dimensions"
    with pytest.raises(GeometryError, match=message):
        project_updates(weight_distances(models), n_components=3)
    with pytest.raises(GeometryError, match="span 0 dimensions"):
        project_updates(weight_distances(models[:1] * 2), n_components=1)
    projection = project_updates(weight_distances(models))
    with pytest.raises(GeometryError, match=r"have 2 coordinates, got the shape \(3,\)"):
        projection.coefficients([1, 2, 3])
