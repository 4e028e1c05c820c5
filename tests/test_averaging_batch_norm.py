"""Running statistics computed anew: the naive formula, torch's update_bn, and no trace left."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from wskit.averaging import recalibrate_bn
from wskit.errors import AveragingError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(model):
    """Everything that must not change: tensors, and each module's own settings."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [
        (part.training, getattr(part, "momentum", 0), getattr(part, "track_running_stats", 0))
        for part in model.modules()
    ]
    hooks = sum(len(part._forward_pre_hooks) for part in model.modules())
    return tensors, flags, hooks


class Net(nn.Module):
    """Dropout before the first of two batch norms, and a third that is never called."""

    def __init__(self):
        super().__init__()
        self.drop, self.first = nn.Dropout(0.5), nn.BatchNorm1d(3)
        self.linear, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None)
        self.unused = nn.BatchNorm1d(5)
        with torch.no_grad():
            self.linear.weight.copy_(normal(4, 3, seed=1))
            self.linear.bias.fill_(0.5)
        for i, norm in enumerate([self.first, self.second, self.unused]):
            norm.running_mean += i + 0.5
            norm.num_batches_tracked += 7

    def forward(self, x):
        return self.second(self.linear(self.first(self.drop(x))))


def mixed(net):
    """Some modules train and some do not."""
    net.train()
    net.first.eval()
    net.drop.eval()
    return net


@pytest.mark.parametrize("sizes", [[40], [20, 20], [16, 16, 8], [13, 25, 2]])
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_statistics_are_those_of_all_values(sizes, order):
    x = normal(40, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([100.0, 0.0, -3.0])
    if order == "sorted":
        x = x.sort(0).values
    bn = nn.BatchNorm1d(3)
    recalibrate_bn(bn, x.split(sizes))
    torch.testing.assert_close(bn.running_mean, x.double().mean(0).float(), rtol=2e-7, atol=1e-7)
    torch.testing.assert_close(bn.running_var, x.double().var(0).float(), rtol=3e-7, atol=0)
    assert bn.num_batches_tracked == len(sizes)


def test_one_batch_is_update_bn():
    """All statistics of all layers are then the same, and equal ones for batches of one size."""
    x = normal(64, 3) + 2
    net = Net()
    net.drop.p = 0.0  # which update_bn would leave on
    ours, theirs = net, copy.deepcopy(net)
    recalibrate_bn(ours, [x])
    update_bn([x], theirs)
    for name in ("first", "second"):
        mine, torchs = getattr(ours, name), getattr(theirs, name)
        torch.testing.assert_close(mine.running_mean, torchs.running_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mine.running_var, torchs.running_var, rtol=1e-6, atol=1e-6)
        assert mine.num_batches_tracked == torchs.num_batches_tracked == 1


def test_a_last_batch_of_two_does_not_count_as_one_of_a_hundred():
    """0 a hundred times, then 51 twice: the mean is 1, and by update_bn 25.5."""
    batches = [torch.zeros(100, 1), torch.full((2, 1), 51.0)]
    ours, theirs = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    recalibrate_bn(ours, batches)
    update_bn(batches, theirs)
    assert ours.running_mean.item() == pytest.approx(1)
    assert ours.running_var.item() == pytest.approx((100 * 1 + 2 * 50**2) / 101)
    assert theirs.running_mean.item() == pytest.approx(25.5)
    assert theirs.running_var.item() == 0


def test_dropout_is_off_and_later_norms_see_normalised_batches():
    x = normal(30, 3) * 3 + 1
    net = mixed(Net())
    before = state(net)
    recalibrate_bn(net, [x])
    torch.testing.assert_close(net.first.running_var, x.var(0))
    first = (x - x.mean(0)) / (x.var(0, correction=0) + net.first.eps).sqrt()
    h = net.linear(first)
    torch.testing.assert_close(net.second.running_mean, h.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net.second.running_var, h.var(0))
    assert state(net)[1:] == before[1:]
    assert net.second.momentum is None
    kept = {name: t for name, t in net.state_dict().items() if "running" not in name}
    for name, tensor in kept.items():  # parameters, and the counters
        counted = name in ("first.num_batches_tracked", "second.num_batches_tracked")
        assert torch.equal(tensor, torch.tensor(1) if counted else before[0][name])
    assert torch.equal(net.unused.running_mean, before[0]["unused.running_mean"])
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d, (10, 4)),
        (nn.BatchNorm1d, (10, 4, 6)),
        (nn.BatchNorm2d, (10, 4, 5, 3)),
        (nn.BatchNorm3d, (4, 4, 2, 3, 2)),
        (nn.SyncBatchNorm, (10, 4, 5, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_kind_and_dtype(norm, shape, dtype):
    x = (normal(*shape) * 2 + 30).to(dtype)
    bn = norm(4).to(dtype)
    recalibrate_bn(bn, x.split(4))
    values = x.double().transpose(0, 1).flatten(1)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0}[dtype]
    expected = values.mean(1).to(dtype), values.var(1).to(dtype)  # in bfloat16, rounded once
    torch.testing.assert_close(bn.running_mean, expected[0], rtol=tolerance, atol=0)
    torch.testing.assert_close(bn.running_var, expected[1], rtol=tolerance, atol=0)


def test_the_variance_survives_a_mean_that_is_far_away():
    x = normal(4000, 1) + 3000
    bn = nn.BatchNorm1d(1)
    recalibrate_bn(bn, x.split(7))
    assert bn.running_var.item() == pytest.approx(x.double().var().item(), rel=1e-6)


def test_a_norm_that_is_used_twice_pools_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            self.bn(x)
            return self.bn(input=x * 3 + 5)

    x, net = normal(20, 2), Twice()
    recalibrate_bn(net, x.split(10))
    both = torch.cat([x, x * 3 + 5])
    torch.testing.assert_close(net.bn.running_mean, both.mean(0))
    torch.testing.assert_close(net.bn.running_var, both.var(0))
    assert net.bn.num_batches_tracked == 2


def test_batches_are_tensors_or_begin_with_one():
    x = normal(20, 3)
    found = []
    for loader in (
        x.split(8),
        [(part, None) for part in x.split(8)],
        iter([[part, 0] for part in x.split(8)]),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8),
    ):
        net = Net()
        recalibrate_bn(net, loader)
        found.append(net.second.running_var)
    assert all(torch.equal(var, found[0]) for var in found)


def broken(kind):
    yield normal(8, 3)
    raise kind("in the middle")


@pytest.mark.parametrize(
    ("loader", "kind", "message"),
    [
        (lambda: broken(RuntimeError), RuntimeError, "in the middle"),
        (lambda: broken(KeyboardInterrupt), KeyboardInterrupt, "in the middle"),
        (lambda: [], AveragingError, "of Net was reached in 0 batches"),
        (lambda: [normal(8, 3), normal(1, 3)], ValueError, "more than 1 value per channel"),
        (lambda: [normal(8, 3), normal(8)], ValueError, "expected 2D or 3D input"),
        (
            lambda: [normal(8, 3), normal(8, 3) / 0],
            AveragingError,
            "BatchNorm 'first' has no finite mean and variance",
        ),
    ],
)
def test_an_exception_leaves_no_trace(loader, kind, message):
    net = mixed(Net())
    before = state(net)
    with pytest.raises(kind, match=message):
        recalibrate_bn(net, loader())
    tensors, flags, hooks = state(net)
    assert (flags, hooks) == before[1:]
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in tensors.items())


def test_norms_without_running_statistics_are_left_alone():
    fixed = nn.BatchNorm1d(3, track_running_stats=False)
    with pytest.raises(AveragingError, match="no BatchNorm with running statistics of BatchNorm1d"):
        recalibrate_bn(fixed, [normal(8, 3)])
    both = nn.Sequential(fixed, nn.BatchNorm1d(3))
    recalibrate_bn(both, [normal(8, 3)])
    assert both[0].running_mean is None
    assert not both[0].track_running_stats


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(dtype):
    """The batches stay on the CPU, and come to the model by themselves."""
    batches = (normal(40, 3).to(dtype) + 10).split(17)
    on_cpu, on_gpu = Net().to(dtype), Net().to(dtype).cuda()
    recalibrate_bn(on_cpu, batches)
    recalibrate_bn(on_gpu, batches)
    for name, tensor in on_gpu.state_dict().items():
        assert tensor.is_cuda
        torch.testing.assert_close(tensor.cpu(), on_cpu.state_dict()[name], rtol=1e-5, atol=1e-5)
