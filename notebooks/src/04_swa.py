# %% [markdown]
# # 04. The centre of the solution
#
# **By the end you will have averaged the weights that a training run passed through, and shown over
# many seeds that the average is a better network than the one in which SGD ends:** its training loss is
# higher, its test error lower, and the error around it rises less. You will also have met the rivals that
# come level, the data on which nothing is gained, and the one mistake that makes an average useless.
#
# | | |
# |---|---|
# | **You will be able to** | average weights while training runs, in torch and afterwards from a record; see where an average lies in the loss landscape; set the statistics of batch norms right; tell an average's gain from that of a lower learning rate and of early stopping |
# | **You should know** | [tutorial 00](00_start_here.ipynb); SGD and learning rate schedules; standard errors |
# | **Time to read** | 95 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none |

# %% tags=["setup"]
import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

from wskit import averaging, course, data, exercises, landscape, plots, widgets

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
N_SEEDS = 10  # the size knob

# %% [markdown]
# ## The question
#
# With a constant learning rate, SGD never settles: it goes round and round in the noise of its
# batches. One usually lowers the rate until it stops. Izmailov et al. (2018) keep the rate high and
# average the weights instead: stochastic weight averaging, SWA. "SGD generally converges to a point
# near the boundary of the wide flat region of optimal points", they write; the average is its centre.
# Is it?

# %% [markdown]
# ## 400 digits, a fifth of them mislabelled
#
# Averaging helps where the noise is large. So we begin with few images whose labels are partly wrong:
# of 400 training images, every fifth has a label that was drawn anew. The 200 validation images and
# the 1197 test images have the right ones.
#
# Each seed makes its own split, noise, network and batches.

# %%
digits = data.load_dataset("digits", seed=0)
images = torch.cat([digits.train_x, digits.validation_x, digits.test_x])
labels = torch.cat([digits.train_y, digits.validation_y, digits.test_y])


def problem(seed, noise=0.2):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=draw).split([400, 200, 1197])
    found = {}
    for name, part in zip(("train", "validation", "test"), rows, strict=True):
        found |= {f"{name}_x": images[part], f"{name}_y": labels[part]}
    wrong = torch.randint(10, (int(noise * 400),), generator=draw)
    found["train_y"][: len(wrong)] = wrong
    return replace(digits, **found)


# %%
shown, (fig, axs) = problem(0), plt.subplots(1, 10, figsize=(7, 1.2))
for ax, image, label in zip(axs, shown.train_x, shown.train_y, strict=False):
    ax.imshow(image[0], cmap="gray_r")
    ax.set(xticks=[], yticks=[], title=label.item())
print("Ten training images whose labels were drawn anew:", shown.train_y[:10].tolist())

# %% [markdown]
# ## A run that is kept whole
#
# The network has two convolutions and one dense layer, and on request batch norms, which we need
# later. Its rate is 0.1 times a factor of the time $t$, which goes from 0 to 1. The first of the
# schedules is the one that the paper's SGD has: constant to the half, then down to a hundredth.
#
# `train` computes in float64, in which every processor comes to the same numbers, and gives the weights
# after every epoch, and a `Trajectory` keeps them all as one stacked tensor,
# so that any average can be made afterwards, without training again. (`shifted` makes nine versions of
# each image; that is for later.)


# %%
def cnn(bn=False):
    norms = [nn.BatchNorm2d(16) if bn else nn.Identity() for _ in range(2)]
    first = [nn.Conv2d(1, 16, 3, padding=1), norms[0], nn.ReLU()]
    second = [nn.Conv2d(16, 16, 3, padding=1), norms[1], nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


# %%
rates = {
    "SGD": lambda t: np.interp(t, [0.5, 0.9], [1.0, 0.01]),
    "constant": lambda t: 1.0,
    "cyclical": lambda t: 1 - 0.99 * (10 * t % 1),  # ten times from the whole rate down
}


# %%
def shifted(x):
    padded = functional.pad(x, (1, 1, 1, 1))
    return torch.stack([padded[..., i : i + 8, j : j + 8] for i in range(3) for j in range(3)])


def record(*arguments, **options):
    trajectory = averaging.Trajectory()
    for epoch, weights in enumerate(train(*arguments, **options), start=1):
        trajectory.append(epoch, weights)
    return trajectory


# %%
def train(part, rate, seed, net=cnn, shift=False, epochs=40):
    torch.manual_seed(seed)
    net, draw = net().double(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate(i / epochs / 13))
    x = part.train_x.double()
    x = shifted(x) if shift else x[None]
    for _ in range(epochs):
        for batch in torch.randperm(400, generator=draw).split(32):  # 13 of them
            version = torch.randint(len(x), (len(batch),), generator=draw)
            loss = functional.cross_entropy(net(x[version, batch]), part.train_y[batch])
            optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
        yield copy.deepcopy(net).float().state_dict()


# %%
parts = [problem(seed) for seed in range(N_SEEDS)]
runs = {k: [record(part, rate, i) for i, part in enumerate(parts)] for k, rate in rates.items()}
print(
    "runs:", {name: len(found) for name, found in runs.items()}, "of", len(runs["SGD"][0]), "epochs"
)

# %% [markdown]
# ## The average
#
# SWA is the running mean of the weights $w_1, w_2, \dots$ that the run passes through:
#
# $$ \bar w_n = \bar w_{n-1} + \frac{w_n - \bar w_{n-1}}{n} . $$
#
# One copy of the weights is all that it costs.
#
# By hand, as torch has it, as wskit has it, and as the mean of a window of the record:

# %%
mean, ours, net = None, averaging.RunningMean(), cnn()
torchs = torch.optim.swa_utils.AveragedModel(net)
for n in range(1, 33):
    w = runs["constant"][0].model(7 + n)  # epochs 9 to 40
    mean = mean or {name: torch.zeros_like(W) for name, W in w.items()}
    mean = {name: mean[name] + (W - mean[name]) / n for name, W in w.items()}
    ours.add(w), net.load_state_dict(w), torchs.update_parameters(net)
window = runs["constant"][0].window_mean(8)
rivals = {"AveragedModel": torchs.module.state_dict(), "RunningMean": ours.weights}
for name, found in (rivals | {"window_mean": window}).items():
    print(name, all(torch.allclose(found[k], W, atol=1e-6) for k, W in mean.items()))

# %% [markdown]
# ### Predict first
#
# SGD with a falling rate, and the average of epochs 9 to 40 at the full rate: whose training loss is
# lower, and whose test error? And what about the last of the networks that were averaged?


# %%
def scores(logits, y):
    loss = functional.cross_entropy(logits.mT[None], y[None])
    return {"loss": loss, "error": 100 * (logits.argmax(-1) != y).double().mean()}


def metrics(part, net=cnn, **options):
    data = {"train": (part.train_x, part.train_y), "test": (part.test_x, part.test_y)}
    options |= {"metrics": scores}
    made = {k: landscape.module_metrics(net(), *xy, **options) for k, xy in data.items()}
    return landscape.split_metrics(**made)


# %%
evaluations = [metrics(part) for part in parts]
sgd = [run.model(-1) for run in runs["SGD"]]
swa = [run.window_mean(8) for run in runs["constant"]]
rows = []
for i, evaluate in enumerate(evaluations):
    models = {"SGD": sgd[i], "constant, the last": runs["constant"][i].model(-1), "SWA": swa[i]}
    models["SWA, ends of cycles"] = runs["cyclical"][i].window_mean(11, None, 4)
    rows.append(landscape.evaluate_models(evaluate, models).assign(seed=i))
found = pd.concat(rows).rename_axis("model").reset_index()
print(found.groupby("model", sort=False)[["train_loss", "test_loss", "test_error"]].mean().round(2))

# %% [markdown]
# ### Seed by seed
#
# Paired, with 95 % intervals of the mean gain (Student's t) and the share of seeds won:


# %%
def compare(errors, to="SGD"):
    gain = errors.rsub(errors[to], axis=0)
    half = stats.t.ppf(0.975, len(gain) - 1) * gain.sem()
    table = {"error %": errors.mean(), "std": errors.std(), f"gain over {to}": gain.mean()}
    return pd.DataFrame(table | {"+-": half, "won": (gain > 0).mean()}).round(2)


# %%
errors = found.pivot(index="seed", columns="model", values="test_error")[found.model.unique()]
print(compare(errors).to_string())
loss = found.pivot(index="seed", columns="model", values="train_loss")
print(f"training loss of SWA above SGD's: {(loss.SWA > loss.SGD).mean():.2f} of the seeds")

# %% [markdown]
# The average has the higher training loss and a third less test error, in every seed, although the
# last of the networks that went into it is mostly worse than SGD's. Whether they came from a constant
# or a cyclical rate makes little difference.

# %% [markdown]
# ## Epoch by epoch
#
# At each epoch: the network with the constant rate, the average so far, and its rival that forgets, the
# exponential moving average (EMA) with a decay $\gamma$; and SGD.
#
# $$ \bar w_n = \gamma\,\bar w_{n-1} + (1 - \gamma)\,w_n $$


# %%
def ema_shares(decay, n=40):
    """The share of each network in the EMA after each epoch, by the recursion."""
    shares = np.eye(n)
    for row in range(1, n):
        shares[row] = decay * shares[row - 1] + (1 - decay) * shares[row]
    return shares


# %%
def by_epoch(i):
    run = runs["constant"][i]
    since = np.tril(np.ones((40, 40)))[8:]
    since[:, :8] = 0  # row k holds the epochs from 9 to 9 + k
    averages = run.mix(since / since.sum(axis=1, keepdims=True))
    each = {"one network": run.weights, "SWA": averages, "EMA 0.9": run.mix(ema_shares(0.9))}
    return each | {"SGD, decayed": runs["SGD"][i].weights}


rows = []
for i, evaluate in enumerate(evaluations):
    for name, stack in by_epoch(i).items():  # every other epoch is enough for a picture
        table = pd.DataFrame(evaluate({k: W[1::2] for k, W in stack.items()}), dtype=float)
        rows.append(table.assign(epoch=42 + 2 * (table.index - len(table)), model=name))

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 4.4))
for ax, y in zip(axs, ("train_error", "test_error"), strict=True):
    plots.plot_mean_curves(pd.concat(rows), x="epoch", y=y, by="model", ax=ax)
    ax.set(ylabel=y.replace("_", " ") + ", %", ylim=(0, 30))
print(plots.describe(fig))

# %% [markdown]
# Bands are one standard deviation over the seeds. While the rate is high, single networks come and go;
# their average is steady, and far better than they are on average. When the falling rate lets SGD
# settle, it settles on the wrong labels too: its training error goes to zero, and its test error stays
# where it was.

# %% [markdown]
# ## Where the average lies
#
# The plane through SGD's end, the average, and one of the networks in it, of the first seed. On the
# left what is trained on, on the right what counts.

# %%
corners = sgd[0], swa[0], runs["constant"][0].model(-1)
x, y = landscape.plane_through(*corners).grid(15, margin=0.6)
options = {"x": x, "y": y, "names": ("SGD", "SWA", "epoch 40")}
plane = landscape.loss_plane(evaluations[0], *corners, **options)
fig, axs = plt.subplots(1, 2, figsize=(10, 4.4))
for ax, of in zip(axs, ("train_loss", "test_error"), strict=True):
    plots.plot_loss_plane(plane, measure=of, unit="nats", ax=ax)
print(plots.describe(fig))

# %% [markdown]
# ### Along the line
#
# The line from SGD to SWA and beyond, over all seeds: where on it are the two lowest points?

# %%
places, rows, lowest = np.linspace(-1, 2.5, 15), [], {}
for i, ends in enumerate(zip(sgd, swa, strict=True)):
    path = landscape.loss_path(evaluations[i], *ends, alphas=places)
    rows.append(pd.DataFrame(dict(path.measures)).assign(place=places, seed=i))
line = pd.concat(rows, ignore_index=True)

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 3.6))
for ax, of in zip(axs, ("train_loss", "test_error"), strict=True):
    plots.plot_mean_curves(line, x="place", y=of, unit="nats", ax=ax).set_xlabel("0: SGD, 1: SWA")
    lowest[of] = found = line.place[line.groupby("seed")[of].idxmin()]
    print(f"lowest {of} at {found.mean():.2f} +- {found.std():.2f}; drawn with its spread.")

# %% [markdown]
# SGD sits near the lowest training loss. The lowest test error lies on the other side of SWA: a step
# towards the centre was right, and a longer one would have been better still. That is the paper's
# picture, with the labels' noise to make it large.

# %% [markdown]
# ## Is it wider there?
#
# From each end we walk in random directions, five a seed, up to a distance of 4. The weights' own
# length is about 11.

# %%
tests = [landscape.module_metrics(cnn(), p.test_x, p.test_y, metrics=scores) for p in parts]
rows, options = [], {"distances": [0, 1, 2, 3, 4], "n_rays": 5, "normalize": "unit"}
for i, test in enumerate(tests):
    for name, w in {"SGD": sgd[i], "SWA": swa[i]}.items():
        rays = landscape.ray_sharpness(test, w, seed=i, **options)
        rows.append(rays.groupby("distance")[["error"]].mean().assign(model=name, seed=i))
width = pd.concat(rows).reset_index()
ax = plots.plot_mean_curves(width, x="distance", y="error", by="model")
ax.set(xlabel="distance along a random direction", ylabel="test error, %", ylim=(0, 25))
ends = width.pivot(index=["model", "seed"], columns="distance", values="error")
rise = (ends[4] - ends[0]).groupby("model").agg(["mean", "std"]).round(1)
print("The error, drawn with its spread, rises from 0 to 4 by\n" + rise.to_string())

# %% [markdown]
# Around SWA the error not only starts lower, it also rises less.

# %% [markdown]
# ## The path
#
# Is the average in the middle of anything? The principal components of epochs 9 to 40, seen from their
# mean, which is SWA:


# %%
def vectors(run):
    """Epochs 9 to 40, one row per network."""
    return torch.cat([stack[8:].flatten(1) for stack in run.weights.values()], dim=1)


components = [PCA().fit(vectors(run)) for run in runs["constant"]]
first = np.array([found.explained_variance_ratio_[0] for found in components])
run, shares = runs["constant"][0], components[0].explained_variance_ratio_
path = components[0].transform(vectors(run))
ax = plots.plot_trajectory(path, run.steps[8:], shares=shares, marks={"SWA": [0, 0]})
print(plots.describe(ax))
print(f"share of the first component, over the seeds: {first.mean():.2f} +- {first.std():.2f}")

# %% [markdown]
# The centre of a cloud it is not. Most of the spread is in one direction, along which the run moves on
# steadily; the noise is what is left in thirty others. Where does the run go, if its networks get no
# better? It learns the wrong labels by heart. So the average is also an average over time, and its gain
# may be that of stopping early. We come back to this.

# %% [markdown]
# ## Batch norms: how to ruin an average
#
# A batch norm in evaluation mode divides by running statistics, which belong to the weights that they
# were gathered with. The average is a network that no image has ever passed through. Its test error in
# percent, with four sets of statistics:
#
# In torch's words, with its own schedule for a constant rate, and a network with batch norms:


# %%
def swa_by_torch(part, seed, start=8, epochs=40):
    torch.manual_seed(seed)
    net, x = cnn(bn=True).double(), part.train_x.double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    swa = torch.optim.swa_utils.AveragedModel(net)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.1, anneal_epochs=1)
    for epoch in range(epochs):
        for batch in torch.randperm(400).split(32):
            loss = functional.cross_entropy(net(x[batch]), part.train_y[batch])
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        schedule.step()
        if epoch >= start:
            swa.update_parameters(net)
    return swa.float().eval()


# %%
@torch.no_grad()
def with_statistics(swa, part):
    fresh = cnn(bn=True).eval()
    fresh.load_state_dict(dict(swa.module.named_parameters()), strict=False)
    found = {"a fresh network's": fresh(part.test_x), "the last network's": swa(part.test_x)}
    torch.optim.swa_utils.update_bn(part.train_x.split(32), swa)
    found["update_bn"] = swa(part.test_x)
    averaging.recalibrate_bn(swa, part.train_x.split(32))
    found["recalibrate_bn"] = swa(part.test_x)
    return {name: scores(logits, part.test_y)["error"].item() for name, logits in found.items()}


norms = pd.DataFrame([with_statistics(swa_by_torch(p, i), p) for i, p in enumerate(parts)])
print(norms.agg(["mean", "std"]).T.round(1).to_string())

# %% [markdown]
# The same weights, and four sets of statistics. Those of a new network (the average was saved without
# its buffers) ruin it; those of the last network that was averaged, which `AveragedModel` keeps, cost
# a good part of the gain. `update_bn` passes the training images through once, and all is well.
#
# It has three weaknesses, which do not show on 400 shuffled images: it weighs a short last batch as a
# full one, takes the mean *within* batches for the variance of the data, and turns dropout on. With $S_b$
# the sum of squares of batch $b$ around its mean $m_b$, and $m$ the mean of all $n$ values, the variance is
# $\big(\sum_b S_b + \sum_b n_b (m_b - m)^2\big) / (n - 1)$. On the numbers 0 to 999 in order:

# %%
norm, values = nn.BatchNorm1d(1), torch.arange(1000.0)[:, None]  # mean 499.5, variance 83417
torch.optim.swa_utils.update_bn(values.split(300), norm)  # the last batch is of 100
print("update_bn     ", norm.running_mean.tolist(), norm.running_var.tolist())
averaging.recalibrate_bn(norm, values.split(300))
print("recalibrate_bn", norm.running_mean.tolist(), norm.running_var.tolist())

# %% [markdown]
# ## Play with it
#
# The first seed's runs, now with batch norms. Move the window, and watch the three errors, the curve
# and the plane follow; leave the statistics as they were; train a run with other cycles. **A goal:** find
# a window of five networks whose average has a lower test error than the average of 32.


# %%
def live(rate, cycle, epochs, seed):  # what the panel's button calls; a cycle of 1 is none
    def factor(t):
        return rate / 0.1 * (1 - 0.99 * (t * epochs / cycle % 1) if cycle > 1 else 1)

    return train(parts[0], factor, seed, lambda: cnn(bn=True), epochs=epochs)


# %%
net, batches = {"net": lambda: cnn(bn=True)}, [parts[0].train_x]
own = {name: record(parts[0], rate, 0, **net) for name, rate in rates.items()}
evaluate, recalibrated = metrics(parts[0], **net), metrics(parts[0], **net, bn_loader=batches)
explorer = widgets.SwaExplorer(own, evaluate, recalibrated=recalibrated, train=live, unit="nats")
explorer.run, explorer.start, explorer.recalibrate = "constant", 8, True
explorer.wait(timeout=250)
explorer

# %% [markdown]
# ## What would have fooled us
#
# **Is it the averaging, or stopping early?** SGD may use the 200 validation images, whose labels are
# right, and stop at the epoch that is best on them. And so may SWA: it chooses its first epoch by them.
# Beside these, later starts, and the exponential average (EMA).


# %%
def on_validation(part, stack):
    """The row of the stack with the lowest error on the validation images."""
    x, y = part.validation_x, part.validation_y
    return landscape.module_metrics(cnn(), x, y, metrics=scores)(stack)["error"].argmin()


# %%
rows = []
for i, (part, run) in enumerate(zip(parts, runs["constant"], strict=True)):
    stop = on_validation(part, runs["SGD"][i].weights)
    later = np.triu(np.ones((40, 40)))  # row k holds the epochs from k + 1 on
    start = on_validation(part, run.mix(later / later.sum(axis=1, keepdims=True)))
    models = {"SGD, stopped early": runs["SGD"][i].model(stop), "SGD": sgd[i]}
    models |= {f"SWA from epoch {k + 1}": run.window_mean(k) for k in (0, 8, 20, 35)}
    models["SWA, start chosen"] = run.window_mean(start)
    for d in (0.8, 0.95):
        last = run.mix(ema_shares(d)[-1:])
        models[f"EMA {d}"] = {name: stack[0] for name, stack in last.items()}
    rows.append(landscape.evaluate_models(tests[i], models).error)
stopped = compare(pd.DataFrame(rows), to="SGD, stopped early")
print(stopped.to_string())

# %% [markdown]
# Stopped early, SGD is level with SWA from epoch 9: the interval of the difference holds 0. It is SWA
# with its start chosen by the same images that beats both. Here one can hardly start too early, as the
# first networks know the wrong labels least; the later the start, the less is gained. An EMA of decay
# 0.95, an average over about 20 epochs, does as well as SWA from epoch 9; one that forgets sooner, not.

# %% [markdown]
# ### Is it the noise?
#
# Now without wrong labels: the same network on images that are shifted by a pixel
# at random, and a plain MLP without that; then the MLP with the wrong labels again.


# %%
def mlp():
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def sgd_and_swa(net, shift, noise, seed):
    part = problem(seed, noise)
    a, b = (record(part, rates[k], seed, net, shift) for k in ("SGD", "constant"))
    test = landscape.module_metrics(net(), part.test_x, part.test_y, metrics=scores)
    return landscape.evaluate_models(test, {"SGD": a.model(-1), "SWA": b.window_mean(20)}).error


# %%
settings = {"CNN, shifted images": (cnn, True, 0.0), "MLP": (mlp, False, 0.0)}
settings["MLP, wrong labels"] = mlp, False, 0.2
fresh = {
    name: pd.DataFrame([sgd_and_swa(*s, 100 + i) for i in range(N_SEEDS)])
    for name, s in settings.items()
}
for name, table in fresh.items():
    print(name + "\n" + compare(table).to_string())

# %% [markdown]
# With right labels there is nothing to be seen here: the intervals of the gain hold 0.
# If there is a gain, it is a tenth of a point or two. It takes noise that the decay of the rate would
# otherwise freeze in, or, in the paper, networks and data sets a thousand times as large.

# %% [markdown]
# ## A cloud instead of a point
#
# SWAG (Maddox et al. 2019) keeps, beside the mean, the variances and the last deviations of the same
# networks, and draws new ones from the Gaussian. Their mean prediction should know better when it does
# not know, and their test loss be lower. Is it?


# %%
def prediction(models, x):
    net = cnn().requires_grad_(False)
    logits = [torch.func.functional_call(net, w, (x,)) for w in models]
    return torch.stack(logits).softmax(-1).mean(0)


# %%
rows = []
for i, (part, run) in enumerate(zip(parts, runs["constant"], strict=True)):
    swag, networks = averaging.SWAG(rank=20), [run.model(k) for k in range(8, 40)]
    _ = [swag.add(w) for w in networks]
    rivals = {"SGD": [sgd[i]], "SWA": [swa[i]], "the 32 networks": networks}
    rivals["SWAG"] = [swag.sample(seed=k) for k in range(20)]
    for name, models in rivals.items():
        p = prediction(models, part.test_x)
        row = {"model": name} | scores(p.log(), part.test_y)
        rows.append(row | {"mean confidence": p.amax(-1).mean(), "seed": i})
cloud = pd.DataFrame(rows).set_index("model").astype(float)
print(cloud.groupby("model", sort=False).agg(["mean", "std"]).drop(columns="seed").round(2))

# %% [markdown]
# It does not, here. Networks that were trained on wrong labels are unsure enough: SWA is right more often
# than it says, and SWAG still more unsure. The mean prediction of all 32 networks is right about as often
# as the one network that is their mean, at 32 times the cost.

# %% [markdown]
# ## The paper's claims, and ours
#
# On CIFAR-100 the authors report, in percent right, 72.55 for SGD and 73.91 for SWA (VGG-16), 78.49 and
# 79.77 (PreResNet-164), 80.82 and 81.46 (WRN-28-10). Ours are means over seeds; behind a gain, ± is the
# half width of its 95 % interval, elsewhere one standard deviation.


# %% tags=["claims", "hide-input"]
# The paper's claims beside ours (click to open the code)
def texts(columns):
    return {name: f"{x.mean():.2f} ± {x.std():.2f}" for name, x in columns.items()}


def gain(table, of="SWA"):
    return "{:.2f} ± {:.2f}".format(*table.iloc[:, 2:4].loc[of])


fitted, rises = texts(loss), texts((ends[4] - ends[0]).unstack("model"))
unsure = texts(cloud.pivot(columns="seed", values="loss").T)
of_last, new = (texts(norms)[name] for name in ("the last network's", "recalibrate_bn"))
course.claims(
    (
        "SWA beats SGD of the same budget (VGG-16: 73.91 % right beside 72.55 %)",
        f"a gain of {gain(compare(errors))} points (95 % interval)",
        N_SEEDS,
        f"right labels: {gain(compare(fresh['CNN, shifted images']))}, over {N_SEEDS} seeds; "
        f"beside SGD stopped early: {gain(stopped, 'SWA from epoch 9')}",
    ),
    (
        "SGD ends at the edge of a wide region, SWA in its centre, at a higher training loss",
        f"training loss {fitted['SWA']} beside {fitted['SGD']}",
        N_SEEDS,
        f"the test error is lowest beyond: SGD at 0, SWA at 1, it is at {texts(lowest)['test_error']}",
    ),
    (
        "around SWA the error rises less",
        f"by {rises['SWA']} points at a distance of 4; around SGD by {rises['SGD']}",
        N_SEEDS,
        "random directions only",
    ),
    (
        "with batch norms, SWA needs new statistics",
        f"{new} % of error; {of_last} % with the last network's",
        N_SEEDS,
        "one network was tried",
    ),
    (
        "SWAG lowers the test loss (Maddox et al.)",
        f"{unsure['SWAG']} beside {unsure['SWA']} of SWA",
        N_SEEDS,
        "not here: it is higher",
    ),
)

# %% [markdown]
# ## Limits
#
# - Small networks, 400 images, 40 epochs. What holds for ImageNet was not tried.
# - The settings (rate 0.1, from epoch 9) are those under which the effect was first seen, on other
#   seeds. No other rate, batch size or weight decay was tried on this page.
# - The noise is uniform: a wrong label says nothing about the image. Real annotators err otherwise.
# - The planes and the path are those of one seed; the numbers beside them are over all.
# - "Wider" was measured along random directions of unit length, on which the scale of the weights
#   matters (tutorial 00); the two networks' weights are about equally long.

# %% [markdown]
# ## Exercises
#
# Each has a check that says what is wrong and never the answer, a hint, and a solution.
#
# ### Exercise 4.1 ★ (10 minutes)
#
# Averages can be merged. Write the mean of $n_a + n_b$ models from the mean of the first $n_a$ and that of
# the other $n_b$: a function of two dicts of tensors and two numbers. Whole numbers (counters) are those
# of the first dict.


# %% tags=["exercise"]
# Exercise 4.1
def merge_means(a, n_a, b, n_b):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_merge_means(merge_means))

# %% [markdown]
# <details><summary>Hint 4.1</summary>
#
# A mean times its number is a sum. And what must the result be if $n_b$ is 0?
#
# </details>
#
# <details><summary>Expected output 4.1</summary>
#
# ```text
# Passed: each model counts once.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 4.1 (click to open)
def merge_means(a, n_a, b, n_b):
    merged = dict(a)
    for name, W in a.items():
        if W.is_floating_point():
            merged[name] = (n_a * W + n_b * b[name]) / (n_a + n_b)
    return merged


print(exercises.check_merge_means(merge_means))

# %% [markdown]
# ### Exercise 4.2 ★★ (10 minutes)
#
# What is in an exponential average? It begins at the first network, $\bar w_1 = w_1$, and goes on with
# $\bar w_n = \gamma\,\bar w_{n-1} + (1 - \gamma)\,w_n$. Write `ema_coefficients(n, decay)`: the share that
# each of the $n$ networks has in $\bar w_n$, the first network's first. Then predict: with a decay of
# 0.95 and 40 epochs, how much of the first network, which has hardly learned anything, is still there?


# %% tags=["exercise"]
# Exercise 4.2
def ema_coefficients(n, decay):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_ema_coefficients(ema_coefficients))

# %% [markdown]
# <details><summary>Hint 4.2</summary>
#
# Follow one network. What does it get when it comes in, and what happens to that in every later step?
# And which network comes in differently from all others?
#
# </details>
#
# <details><summary>Expected output 4.2</summary>
#
# ```text
# decay 0.80: the first of 40 has 0.000, as many count as in a mean of 9.0
# decay 0.90: the first of 40 has 0.016, as many count as in a mean of 18.9
# decay 0.95: the first of 40 has 0.135, as many count as in a mean of 23.0
# Passed: that is how much of each network is in the mean.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 4.2 (click to open)
def ema_coefficients(n, decay):
    share = np.r_[1.0, np.full(n - 1, 1 - decay)]  # when it comes in
    return share * decay ** np.arange(n)[::-1]


for decay in (0.8, 0.9, 0.95):
    c = ema_coefficients(40, decay)
    text = f"the first of 40 has {c[0]:.3f}, as many count as in a mean of {1 / (c**2).sum():.1f}"
    print(f"decay {decay:.2f}: {text}")
print(exercises.check_ema_coefficients(ema_coefficients))

# %% [markdown]
# ### Exercise 4.3 ★★ (15 minutes)
#
# Why not simply lower the rate? In a bowl with the loss $h w^2 / 2$, a step of SGD with the rate $\eta$ is
# $w_{t+1} = w_t - \eta\,(h w_t + s\,\varepsilon_t)$, where $\varepsilon_t$ is standard normal and $s$ the size
# of the gradient's noise. It never stops, but the variance of $w_t$ settles. At what? Write
# `variance(rate, h, noise)`, for rates below $2/h$. Then predict: if SGD walks on and one averages 1000 of
# its steps, how does the variance of *that* depend on the rate?


# %% tags=["exercise"]
# Exercise 4.3
def variance(rate, h, noise):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_settled_variance(variance))

# %% [markdown]
# <details><summary>Hint 4.3</summary>
#
# Write $w_{t+1}$ as a multiple of $w_t$ and something that is independent of it. Variances of independent
# things add. Once it has settled, the variance is the same before and after a step.
#
# </details>
#
# <details><summary>Expected output 4.3</summary>
#
# ```text
#       one network, by the formula  one network  mean of 1000
# rate
# 0.03                      0.00773      0.00775       0.00027
# 0.10                      0.02778      0.02784       0.00024
# 0.30                      0.10714      0.10699       0.00025
# 0.90                      2.25000      2.26167       0.00023
# Passed: that is how far from the bottom SGD goes on walking.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 4.3 (click to open)
def variance(rate, h, noise):
    return rate * noise**2 / (h * (2 - rate * h))


rng, h, table = np.random.default_rng(0), 2.0, {}
for rate in (0.03, 0.1, 0.3, 0.9):
    w = [np.zeros(1000)]  # a thousand walks at once
    for _ in range(1200):
        w.append(w[-1] - rate * (h * w[-1] + rng.standard_normal(1000)))
    table[rate] = variance(rate, h, 1.0), np.var(w[200:]), np.mean(w[200:], axis=0).var()
names = ["one network, by the formula", "one network", "mean of 1000"]
print(pd.DataFrame(table, names).T.rename_axis("rate").round(5).to_string())
print(exercises.check_settled_variance(variance))

# %% [markdown]
# ### Exercise 4.4 ★★★ (open-ended, 20 minutes)
#
# Which average is the best? Below, `SwaExplorer` has the first seed's run with the constant rate, as it
# was recorded. Which windows are good, and why? There is more than windows: `design(epochs)` is given
# the number of epochs and returns as many coefficients, which must sum to 1. They are applied to the
# *nine other* seeds' runs, which you have not looked at.
#
# **Goal:** a lower mean test error than that of SWA from epoch 9, and a lower one in at least eight of the
# nine.

# %%
run = {"first seed": runs["constant"][0]}
explorer = widgets.SwaExplorer(run, evaluations[0], resolution=7, unit="nats")
explorer.start = 8
explorer.wait(timeout=250)
explorer


# %% tags=["exercise"]
# Exercise 4.4
def design(epochs):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_design(design, runs["constant"][1:], tests[1:], rival=swa[1:]))

# %% [markdown]
# <details><summary>Hint 4.4</summary>
#
# Which networks have learned the digits, and which the wrong labels? The figure by epoch tells both.
# On the line from SGD to SWA and beyond, the best point was *beyond*: coefficients may be negative.
#
# </details>
#
# <details><summary>Expected output 4.4</summary>
#
# ```text
# Passed: an error of 7.83 %, where the rival has 10.53 %; it is lower in 100% of 9 runs.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 4.4 (click to open)
def design(epochs):
    early = np.where(np.arange(epochs) < epochs / 2, 1.0, 0.3)
    return early / early.sum()


print(exercises.check_design(design, runs["constant"][1:], tests[1:], rival=swa[1:]))

# %% [markdown]
# ## Summary
#
# - The mean of the weights along a run at a constant rate has a higher training loss and a third less
#   test error than SGD with a decayed rate, in every seed, where a fifth of the labels are wrong.
# - It lies where the error rises less in random directions. The lowest test error is not at the average
#   but beyond it.
# - Early stopping on clean images comes level with a fixed start; SWA that may choose its start on the
#   same images is better than both.
# - With right labels no gain was seen at this scale.
# - With batch norms, an average needs new statistics.

# %% [markdown]
# ## For discussion
#
# 1. "The centre of a wide region", or "an average over a time in which the wrong labels were not yet
#    learned": which story does this page support? What experiment would tell them apart?
# 2. The lowest test error lies beyond the average. Should one go there? Who says how far?
# 3. Your next training takes three weeks. Would you keep an average of it, of what, and what would you
#    have to show before you publish it?
# 4. With right labels SWA has no gain here. Does that speak against the paper?
# 5. Our wrong labels were drawn at random. Real annotators confuse what looks alike, and label some
#    groups of images worse than others. What would an average do then, and for whom?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. For the second: SGD that is stopped early comes level, a start at epoch 1 is best, the path moves on
#    steadily, and nothing is gained with right labels. For the first: the line and the random
#    directions; and the best average beats the best single epoch. An experiment: average networks
#    that differ by noise only, of one short stretch at the rate at which nothing is learned any more, or
#    of many runs from one epoch on with other batches.
# 2. On the line, yes, if images that were not used for anything else say how far: one more number is
#    chosen, and it can be fooled like any other. Let them notice that a point beyond the average has
#    negative coefficients, and find the plane in which it lies.
# 3. An EMA or a few running means with different starts cost a copy of the weights each, and decide
#    nothing in advance. To show: new statistics for the batch norms, the same evaluation for both, the
#    choice made on images that are not in the test set.
# 4. The interval for right labels is about ± 0.2 points, and the paper's gains are about one point of
#    another measure, on networks a thousand times as large that do not reach zero training loss. Absence
#    at one scale is not absence. A good answer names the size of the gain that the interval rules out.
# 5. Labels that are wrong in a system are learned early, together with what is right, and no average
#    over time takes them out. A mean accuracy would hide it: ask for the error of each group.
#
# Where students go wrong: they take the falling training error of SGD for success; they say "SWA is
# flatter" of the plane, which is one seed and one plane; they forget the statistics of batch norms and
# conclude that averaging fails; in 4.2 they give the first network the share of the others; in 4.3 they
# forget that the factor is squared; in 4.4 they tune on the nine runs until it passes, and call it found.
# About 40 minutes for the page, 10 each for 4.1 and 4.2, 15 for 4.3, 20 for 4.4, 15 for a discussion of
# two questions.
#
# </details>

# %% [markdown]
# ## References
#
# 1. P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov and A. G. Wilson, *Averaging weights leads to
#    wider optima and better generalization*, UAI 2018, arXiv:1803.05407.
# 2. W. J. Maddox, T. Garipov, P. Izmailov, D. Vetrov and A. G. Wilson, *A simple baseline for Bayesian
#    uncertainty in deep learning*, NeurIPS 2019, arXiv:1902.02476.
# 3. T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov and A. G. Wilson, *Loss surfaces, mode
#    connectivity, and fast ensembling of DNNs*, NeurIPS 2018, arXiv:1802.10026.
# 4. B. T. Polyak and A. B. Juditsky, *Acceleration of stochastic approximation by averaging*, SIAM
#    Journal on Control and Optimization 30 (1992), doi:10.1137/0330046.
#
# **Next:** [05, model soups](05_model_soups.ipynb): averages of *different* runs from one start.
