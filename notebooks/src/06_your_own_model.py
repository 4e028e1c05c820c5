# %% [markdown]
# # 06. Your own model
#
# **By the end you will have examined a checkpoint of your own, layer by layer and without its data;
# set it beside a second one; averaged the two on disk; and written one page about it.** On the way you
# will have shown, on small networks, that a fine-tune moves a layer along a few directions, and that
# what tells it from another training can be read off the weights.
#
# | | |
# |---|---|
# | **You will be able to** | examine any checkpoint with a dozen calls; read spectra, distances and correlations against what chance gives; say what weights alone cannot tell; merge files that are larger than the memory |
# | **You should know** | [tutorial 01](01_esd.ipynb); for the merges [tutorial 05](05_model_soups.ipynb) |
# | **Time to read** | 60 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none, unless the checkpoint that you name must be downloaded |

# %% tags=["setup"]
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from wskit import averaging, checkpoints, data, exercises, features, geometry, plots, spectra
from wskit.landscape import LossPath, barrier, loss_path, one_by_one
from wskit.report import examine, write_report
from wskit.soups import greedy_soup
from wskit.widgets import EsdExplorer

plt.rcParams.update(plots.STYLE)

# %% [markdown]
# ## Yours
#
# Change the first line, and run all cells. `CHECKPOINT` is a file, a folder, a name from
# `wskit data list`, `"hf://org/name@revision"`, a module, or a mapping of names to tensors. The other
# lines may stay as they are; what they are needed for is then left out, and the page says so.
#
# `evaluate` is a function of weights, a mapping as `state_dict()` gives it, to one number: the loss on
# held-out data. As long as `CHECKPOINT` is None, the page takes networks that it trains itself.

# %%
CHECKPOINT = None
OTHER = None  # a second one of the same architecture: another step of training, a fine-tune
evaluate = None  # weights -> loss, the lower the better
MORE = []  # further fine-tunes of CHECKPOINT, for the soups
N_SEEDS = 5  # the size knob: how many networks the controls are tried on

# %% [markdown]
# ## Networks to practise on
#
# Of each seed: a base, trained on scikit-learn's digits; and a fine-tune of it, on the same digits turned
# by 45 degrees. The layer in the middle is used twice, so that two names stand for one tensor, as the
# embeddings of many a language model do. These networks are the controls below, whatever `CHECKPOINT` is.

# %%
torch.set_default_dtype(torch.float64)  # so that every machine prints the same digits
digits = data.load_dataset("digits", seed=0)
x, y = digits.train_x.flatten(1).double(), digits.train_y


def turned(images, degrees=45):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    grid = torch.tensor([[[c, -s, 0], [s, c, 0]]]).expand(len(images), 2, 3)
    grid = nn.functional.affine_grid(grid, [len(images), 1, 8, 8], align_corners=False)
    found = nn.functional.grid_sample(images.view(-1, 1, 8, 8), grid, align_corners=False)
    return found.flatten(1)


# %%
def network():
    middle, relu = nn.Linear(96, 96), nn.ReLU()
    first, second, last = nn.Linear(64, 128), nn.Linear(128, 96), nn.Linear(96, 10)
    return nn.Sequential(first, relu, second, relu, middle, relu, middle, relu, last)


# %%
def train(seed, images, start=None, keep=()):
    torch.manual_seed(seed)
    net, epochs, lr = network(), *((20, 0.05) if start is None else (5, 0.02))
    net.load_state_dict(start or net.state_dict())
    optimizer, kept = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9), {}
    for epoch in range(epochs + 1):
        if epoch in (*keep, epochs):
            kept[epoch] = {name: W.clone() for name, W in net.state_dict().items()}
        for batch in torch.randperm(len(y)).split(64) if epoch < epochs else ():
            loss = nn.functional.cross_entropy(net(images[batch]), y[batch])
            optimizer.zero_grad(), loss.backward(), optimizer.step()
    return kept


# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
runs = [train(seed, x, keep=(0, 4, 8, 12)) for seed in range(N_SEEDS)]
bases = [run[20] for run in runs]
tunes = [train(100 + seed, turned(x), base)[5] for seed, base in enumerate(bases)]
torch.set_num_threads(threads)  # a large checkpoint has use for all

# %% [markdown]
# How good they are, in percent of the held-out images, upright and turned; and their loss on both kinds,
# which is the `evaluate` of these networks.

# %%
held_y = digits.validation_y
upright = digits.validation_x.flatten(1).double()


def outputs(model, images=upright):
    net = network()
    net.load_state_dict(dict(model))
    return net(images).detach()


def both_losses(model):
    found = [outputs(model, images) for images in (upright, turned(upright))]
    return np.mean([nn.functional.cross_entropy(f, held_y).item() for f in found])


# %%
def in_percent(model, images=upright):
    return 100 * (outputs(model, images).argmax(1) == held_y).double().mean().item()


rows = [("base", w) for w in bases] + [("fine-tune", w) for w in tunes]
rows = [(k, in_percent(w), in_percent(w, turned(upright)), both_losses(w)) for k, w in rows]
table = pd.DataFrame(rows, columns=["network", "% upright", "% turned", "loss on both"])
print(table.groupby("network").agg(["mean", "std"]).round(2).to_string())

# %% [markdown]
# They become files, in float32, as checkpoints are: the first base a folder of three shards, its
# fine-tunes a file each.

# %%
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = scratch.name


def saved(weights, name, **how):
    net = network().float()  # whose two names in the middle are one tensor
    net.load_state_dict(weights)
    return checkpoints.save_weights(net.state_dict(), f"{folder}/{name}", **how)


if CHECKPOINT is None:
    CHECKPOINT, evaluate = saved(bases[0], "base", shard_size=50_000), both_losses
    OTHER = saved(tunes[0], "turned.safetensors")
    MORE = [saved(train(i, turned(x), bases[0])[5], f"turned-{i}.safetensors") for i in range(2)]

# %% [markdown]
# ## What is in it
#
# Opening reads the header: names, shapes, dtypes. A tensor is read when it is asked for. No code in a file
# is ever run.
#
# `mapped=False` says that a tensor's memory is free again when it has been used; the pages of a mapped
# file would count as this process's memory until the file is closed.


# %%
def opened(source):
    if isinstance(source, str) and source in set(data.catalog()["name"]):
        source = data.fetch(source, progress=False)
    return checkpoints.open_checkpoint(source, mapped=False)


weights = opened(CHECKPOINT)
other = None if OTHER is None else opened(OTHER)
print(f"{len(weights)} tensors, {weights.nbytes / 1e6:.2f} MB; metadata: {dict(weights.metadata)}")

# %%
table = spectra.inventory(weights).drop(columns=["N", "M", "n_matrices"])
table["tied to"] = table.name.map(dict(weights.ties)).fillna("")
print(table.to_string(index=False, max_rows=24))
own = table[table["tied to"] == ""]
print(f"{own.n_parameters.sum():,} parameters;", own.dtype.value_counts().to_dict(), "tensors")

# %% [markdown]
# What is examined has a fingerprint: the sha256 of each file, to be written beside every result.

# %% tags=["nbval-ignore-output"]
hashes = checkpoints.hash_files(weights.source) if weights.files else {}
for name, digest in hashes.items():
    print(digest[:16], name)
print(f"{len(hashes)} files")

# %% [markdown]
# ## The spectra of all layers
#
# A row a layer (tutorial 01): alpha of the tail; how many eigenvalues of $W^\top W$ lie beyond the
# Marchenko-Pastur edge, and how far out the largest does, $\lambda_{\max} / \lambda_+$; the phase that the
# spectrum looks like.
#
# **Predict first.** Which of your layers will look the least trained?

# %%
layers = features.spectral_table(weights)
table = layers.assign(**{"top / edge": 1 / layers.soft_rank}).round(2)
columns = ["name", "N", "M", "alpha", "n_spikes", "top / edge", "stable_rank", "phase"]
print(table[columns].to_string(index=False, max_rows=40))

# %%
doubtful = layers[(layers.warning != "") | (layers.reason != "")]
for row in doubtful.head(12).itertuples():
    print(f"{row.name}: {row.warning or row.reason}")
print(f"{len(doubtful)} of {len(layers)} layers with a warning")
print("phases:", layers.phase.value_counts().to_dict())

# %% [markdown]
# Where there is a warning, alpha is not to be read; the number is there all the same. Hollow points in the
# picture are those layers.

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
plots.plot_metric_by_depth(layers, ax=ax)
print(plots.describe(fig))

# %%
with_spectrum = layers[(layers.n_eigenvalues > 0) & ~layers.name.isin(weights.ties)]
shown = with_spectrum.name.iloc[np.linspace(0, len(with_spectrum) - 1, 4).astype(int)].unique()
fig, axs = plots.plot_layers_grid(spectra.spectra(weights, names=shown))
print(plots.describe(fig))

# %% [markdown]
# ## Beside a second checkpoint: how far
#
# With $W$ a tensor of `CHECKPOINT` and $W'$ the same of `OTHER`, its relative change is
#
# $$ \frac{\lVert W' - W \rVert}{\lVert W \rVert} , $$
#
# and the angle between the two, as vectors, tells how much of that is a turn.
#
# On a layer of the practice networks by hand, and by the helper, which reads files block by block. Its
# updates are measured from a base; with zeros as the base they are the weights themselves.


# %%
def compared(weights, other):
    zeros = {name: W.new_zeros(()).expand(W.shape) for name, W in weights.items()}
    models = [weights, other]
    return geometry.weight_distances(models, zeros, by="tensor", block_bytes=2**26)


# %%
V, W = (model["2.weight"] for model in (tunes[0], bases[0]))
by_hand = (V - W).norm() / W.norm(), torch.arccos((V * W).sum() / V.norm() / W.norm())
found, of = compared(bases[0], tunes[0]), "2.weight"
helper = found.euclidean(of)[0, 1] / found.update_norms(of)[0], found.angle(of)[0, 1]
print("equal to the helper:", np.allclose(by_hand, helper))

# %%
if other is None:
    print("There is no second checkpoint, so there is nothing to compare.")
else:
    found, rows = compared(weights, other), []
    for name in found.groups:
        moved, length = found.euclidean(name)[0, 1], found.update_norms(name)[0]
        angle = np.rad2deg(found.angle(name)[0, 1])
        rows.append((name, length, moved, moved / length if length else np.nan, angle))
    changes = pd.DataFrame(rows, columns=["name", "length", "moved by", "relative", "angle"])
    print(changes.round(3).to_string(index=False, max_rows=40))

# %% [markdown]
# ## Along which directions
#
# The spectrum of $W' - W$ says along how many. The stable rank, the sum of all eigenvalues by the
# largest, is 1 for a change in one direction, and $M$ if all $M$ have changed alike. (Of a convolution it is that
# of a slice on average, and may be below 1.)

# %%
by_hand = torch.linalg.svdvals(V - W).square().flip(0)
delta = spectra.difference(tunes[0], bases[0])
s = spectra.spectra(delta, names=["2.weight"])[0]
print("equal to the helper:", np.allclose(by_hand, s.eigenvalues))
print(f"stable rank of the change: {s.eigenvalues.sum() / s.eigenvalues[-1]:.2f}")

# %%
if other is not None:
    delta = spectra.difference(other, weights)
    changed = features.spectral_table(delta)
    ranks = layers[["name", "M", "stable_rank"]].assign(change=changed.stable_rank)
    print(ranks.round(2).to_string(index=False, max_rows=40))

# %%
if other is not None:
    moved = changed[changed.log_norm > -np.inf].name.iloc[:3]
    both = [spectra.spectra(model, names=moved) for model in (weights, delta)]
    fig, axs = plt.subplots(1, 3, figsize=(10, 3.4))
    for ax, before, change in zip(axs, *both, strict=False):
        plots.plot_esd(before, others={"of the change": change}, bins=30, label="of W", ax=ax)
        ax.legend(fontsize=9, loc="upper right")
    for ax in axs[len(moved) :]:
        ax.remove()
    print(plots.describe(fig))

# %% [markdown]
# With the practice networks, the change of every layer has a lower stable rank than the layer: learning to
# read turned digits has moved a few directions. LoRA (Hu et al. 2022) is built on that. Is it the mark of a
# fine-tune? The controls below will tell.
#
# Where there are more fine-tunes, their task vectors $w' - w$ can be compared with each other. Two
# random directions in so many dimensions would be at 90 degrees.

# %%
pool = {} if other is None else {"OTHER": other}
pool |= {f"MORE {i}": opened(source) for i, source in enumerate(MORE)}
if len(pool) > 1:
    angles = np.rad2deg(geometry.weight_distances([*pool.values()], weights).angle())
    print("angles between task vectors, in degrees:")
    print(pd.DataFrame(angles, index=list(pool), columns=list(pool)).round(1).to_string())
else:
    print("There are not two fine-tunes, whose task vectors could be compared.")

# %% [markdown]
# ## How alike its neurons are
#
# The weight correlation is the mean $|\cos|$ between the weights of two neurons of a layer (Jin et al.
# 2020). Random directions in few dimensions are alike as well: only the excess over chance counts.
#
# Of each layer 256 neurons at most are drawn, since 30 000 have half a billion pairs. The last column is
# a control: the same numbers in random order.


# %%
def neurons(W, n=256):
    order = torch.randperm(len(W), generator=torch.Generator().manual_seed(0))
    return W[order[:n]].clone()


rows = []
for name in layers.name[layers.kind.isin(["matrix", "convolution"])]:
    drawn = neurons(weights[name])
    null = features.correlation_table({name: spectra.shuffled(drawn, seed=0)})
    rows.append(features.correlation_table({name: drawn}).assign(shuffled=null.excess))
correlation = pd.concat(rows).drop(columns=["n_dead", "reason"])
print(correlation.round(3).to_string(index=False, max_rows=40))

# %% [markdown]
# ## Is there a barrier between the two?
#
# Along the line $(1 - t)\, w + t\, w'$, $0 \le t \le 1$: how far does the loss rise above the straight line
# between its ends? That takes a loss. Weights alone do not tell it.
#
# Each point of the line is a lazy mixture: a tensor is mixed when `evaluate` asks for it. `loss_path` does
# the same for many points at once, and has both models in memory.

# %%
if other is None or evaluate is None:
    print("No barrier: it takes a second checkpoint and a loss. Neither a small distance nor a")
    print("small angle shows that there is none.")
else:
    alphas = np.linspace(0, 1, 9)
    line = [averaging.average([weights, other], [1 - t, t], lazy=True) for t in alphas]
    losses = np.array([evaluate(mixture) for mixture in line])
    path = LossPath(alphas, {"loss": losses}, ("CHECKPOINT", "OTHER"), np.nan)
    print(f"barrier {barrier(path):.3f}; lowest at t = {alphas[losses.argmin()]:.3f}")
    unit = "nats" if evaluate is both_losses else None  # yours is for you to say
    ax = plots.plot_loss_path(path, label="held-out loss", unit=unit)
    print(plots.describe(ax))
    if weights.nbytes < 1e8:
        helper = loss_path(one_by_one(evaluate), weights, other, alphas=alphas)
        print("equal to the helper:", np.allclose(helper.losses, losses, rtol=1e-4))

# %% [markdown]
# ## Merges, written to disk
#
# - **uniform**: the mean of `CHECKPOINT` and all others;
# - **task vectors**: $w + \frac{1}{2} \sum_i (w'_i - w)$;
# - **greedy**: from the best one on, each is kept if the loss does not rise (tutorial 05).
#
# Each is lazy: it is computed while it is written, a block or a tensor at a time, so that neither the
# ingredients nor the result need fit into memory.


# %%
def greedy(models):
    kept, best = {}, np.inf
    for name in sorted(models, key=lambda name: evaluate(models[name])):
        trial = averaging.average([*kept.values(), models[name]], lazy=True)
        if (loss := evaluate(trial)) <= best:
            kept, best = kept | {name: models[name]}, loss
    return kept


models, merged = {"CHECKPOINT": weights} | pool, {}
if pool:
    taus = [averaging.task_vector(model, weights, lazy=True) for model in pool.values()]
    merged["uniform"] = averaging.average([*models.values()], lazy=True)
    merged["task-vectors"] = averaging.add_task_vectors(weights, taus, 0.5, lazy=True)

# %%
if pool and evaluate is not None:
    kept = greedy(models)
    merged["greedy"] = averaging.average([*kept.values()], lazy=True)
    print("in the greedy soup:", *kept)
    if weights.nbytes < 1e8:  # the helper has two averages in memory
        soup = greedy_soup(models, lambda weights: -evaluate(weights))
        print("equal to the helper:", list(kept) == list(soup.ingredients))
else:
    print("No greedy soup: it takes a second checkpoint, and a loss to choose by.")

# %%
rows = []
for name, merge in merged.items():
    path = checkpoints.save_weights(merge, f"{folder}/{name}", metadata={"merge": name})
    size = sum(file.stat().st_size for file in path.iterdir())
    loss = np.nan if evaluate is None else evaluate(opened(path))
    rows.append((name, len(opened(path)), f"{size / 1e6:.2f} MB", loss))
if evaluate is not None:
    rows += [(name, len(model), "", evaluate(model)) for name, model in models.items()]
table = pd.DataFrame(rows, columns=["", "tensors", "on disk", "loss"]).round(2)
print(table.to_string(index=False) if rows else "Nothing to merge: there is no second checkpoint.")

# %% [markdown]
# They lie in `folder`, which is deleted when the kernel ends: save what you want to keep under a path of yours.
# What chose a greedy soup must not judge it: keep other data for that. The same from the command line,
# which goes on where it was interrupted; `--copy-from 1` takes the configuration of the first ingredient
# along:
#
# ```sh
# wskit soup CHECKPOINT OTHER -o uniform
# wskit soup OTHER MORE --method task --base CHECKPOINT --scale 0.5 -o task-vectors
# ```
#
# ## One page about it
#
# `examine` looks at all layers by all means that need nothing but the weights, and `write_report` makes one
# HTML file of it that loads nothing and runs nothing. From the command line:
# `wskit report CHECKPOINT -o report.html --with OTHER`.

# %%
result = examine(weights, other=other)
page = write_report(result, f"{folder}/report.html")
print(*result.summary, f"{page.name}: {page.stat().st_size / 1e6:.1f} MB", sep="\n")

# %% [markdown]
# ## Look around
#
# Each layer of `CHECKPOINT`, and of `OTHER` where there is one: choose a layer, show its weights shuffled,
# compare the two. **A goal:** find the layer whose tail differs most from that of its shuffled weights.

# %%
steps = {"CHECKPOINT": weights} if other is None else {"CHECKPOINT": weights, "OTHER": other}
explorer = EsdExplorer(steps)
explorer.show_null, explorer.compare = True, None if other is None else "OTHER"
explorer.wait()
explorer

# %% [markdown]
# The same view of the layer, without a panel:

# %%
seen = steps | {"shuffled": spectra.shuffled_weights(weights, seed=0)}
seen = {k: spectra.spectra(w, names=[explorer.layer])[0] for k, w in seen.items()}
s, null = seen.pop("CHECKPOINT"), seen.pop("shuffled")
ax = plots.plot_esd(s, null=null, others=seen)
print(plots.describe(ax))

# %% [markdown]
# ## What would have fooled us
#
# **Would an untrained network have looked the same?** The layer `2.weight` of all practice networks, before
# training, after it, and after it with its entries in random order.

# %%
kinds = {"before": [run[0][of] for run in runs], "trained": [base[of] for base in bases]}
kinds["shuffled"] = [spectra.shuffled(W, seed=i) for i, W in enumerate(kinds["trained"])]
each = [features.spectral_table({kind: W}) for kind, layer in kinds.items() for W in layer]
table = pd.concat(each).assign(top=lambda table: 1 / table.soft_rank).groupby("name", sort=False)
print(table[["alpha", "top", "n_spikes", "stable_rank"]].agg(["mean", "std"]).round(2).to_string())

# %% [markdown]
# **Is a few directions the mark of a fine-tune?** Three other models beside each base: its fine-tune; a base
# of another seed; and the base with random noise as large as the change of the fine-tune.


# %%
def noisy(base, tune, seed):
    draw = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(W.shape, generator=draw) for name, W in base.items()}
    return {n: W + noise[n] * (tune[n] - W).norm() / noise[n].norm() for n, W in base.items()}


def upright_loss(model):
    return nn.functional.cross_entropy(outputs(model), held_y).item()


# %%
def beside(base, model):
    path = loss_path(one_by_one(upright_loss), base, model, alphas=np.linspace(0, 1, 5))
    d, delta = compared(base, model), spectra.difference(model, base)
    found = {"relative": d.euclidean(of)[0, 1] / d.update_norms(of)[0]}
    found["angle"] = np.rad2deg(d.angle(of)[0, 1])
    found["stable rank"] = features.spectral_table({of: delta[of]}).stable_rank[0]
    return found | {
        "barrier": barrier(path),
        "% half-way": in_percent(averaging.average([base, model])),
    }


# %%
kinds = {"fine-tune": tunes, "another seed": bases[1:] + bases[:1]}
kinds["noise"] = [noisy(*pair, seed) for seed, pair in enumerate(zip(bases, tunes, strict=True))]
rows = [
    {"kind": k} | beside(*pair) for k, w in kinds.items() for pair in zip(bases, w, strict=True)
]
print(pd.DataFrame(rows).groupby("kind", sort=False).agg(["mean", "std"]).round(2).to_string())

# %% [markdown]
# - The untrained and the shuffled layer have nothing far out: their largest eigenvalue is at the edge, and
#   alpha, which is a number there as well, scatters widely.
# - The change of a fine-tune has few directions, a stable rank of 3.6 ± 0.5 where the layer itself has 8.8. The
#   change to another seed has 12, so it is not training as such that moves along few directions; and noise of
#   the fine-tune's length has 29.
# - Another seed is at a right angle, and half-way to it nearly half of the answers are lost. On the way to the
#   fine-tune there is no barrier. But there is none on the way to noise either: no barrier, a small distance
#   and a small angle show that two models are close, and not that one learned anything.
#
# ## Limits
#
# - Weights tell whether and where a model was trained. They do not tell whether what it learned is true: a
#   network that was trained on random labels looks trained (tutorial 01).
# - Nothing here has seen data but `evaluate`. A merge without a loss is a guess, written to disk.
# - Batch norm: averaged running statistics are not those of the averaged weights. Recompute them,
#   `averaging.recalibrate_bn`, before a merge is judged.
# - Two trainings of one architecture may differ by the order of their neurons alone; distances and merges
#   then say nothing until these are matched (tutorial 03).
# - Layers of fewer than 50 eigenvalues, and quantised or sparse tensors, are listed and not read.
# - The low stable rank of a change was seen with one small network, one kind of fine-tune and five seeds.
#
# ## Exercises
#
# They are about the practice networks, whatever `CHECKPOINT` is. Each check says what is wrong, and never
# the answer.
#
# ### Exercise 6.1 ★ (10 minutes)
#
# The relative change of a layer, $\lVert W' - W \rVert / \lVert W \rVert$, over all entries: of two tensors
# of one shape, whatever their number of axes. It must hold for float16 as well, in which most public
# checkpoints are.


# %% tags=["exercise"]
# Exercise 6.1
def relative_change(before, after):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_relative_change(relative_change))

# %% [markdown]
# <details><summary>Hint 6.1</summary>
#
# The largest number in float16 is 65 504, and the steps at 300 are as large as 0.25. In what precision
# should one square and add?
#
# </details>
# <details><summary>Expected output 6.1</summary>
#
# ```text
# Passed: a change in units of what was there before.
# ```
# </details>


# %% tags=["solution"]
# Solution 6.1 (click to open)
def relative_change(before, after):
    return ((after.double() - before.double()).norm() / before.double().norm()).item()


print(exercises.check_relative_change(relative_change))

# %% [markdown]
# ### Exercise 6.2 ★★ (15 minutes)
#
# The stable rank is one way to count directions. Here is another: how many singular directions of
# $W' - W$, the largest first, are needed to hold nine tenths of its squared length? Then look: of how many is
# the change of `2.weight` by the fine-tune, and of how many that to another seed?


# %% tags=["exercise"]
# Exercise 6.2
def directions(before, after):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_directions(directions))

# %% [markdown]
# <details><summary>Hint 6.2</summary>
#
# The squared length of a matrix is the sum of its squared singular values. `cumsum` tells how much the first
# so many hold together.
#
# </details>
# <details><summary>Expected output 6.2</summary>
#
# ```text
# Passed: as few directions as hold nine tenths.
# fine-tune 8, another seed 48, of 96
# ```
# </details>


# %% tags=["solution"]
# Solution 6.2 (click to open)
def directions(before, after):
    held = torch.linalg.svdvals(after - before).square().cumsum(0)
    return int((held < 0.9 * held[-1] * (1 - 1e-9)).sum()) + 1


print(exercises.check_directions(directions))
before, *ends = (model["2.weight"] for model in (bases[0], tunes[0], bases[1]))
print("fine-tune {}, another seed {}, of 96".format(*(directions(before, W) for W in ends)))

# %% [markdown]
# ### Exercise 6.3 ★★ (20 minutes)
#
# Two checkpoints of one training, and no dates on them: which is the later one? Write `later(a, b)`, which
# returns True if `b` was trained for longer. Each layer was multiplied by a number of its own, which changes
# no answer of a relu network (tutorial 00), so that lengths tell nothing. The check asks for pairs from the
# practice networks after 0, 4, 8, 12 and 20 epochs, in both orders, and wants nine of ten told right.


# %% tags=["exercise"]
# Exercise 6.3
def later(a, b):
    raise NotImplementedError("write me")


# %% tags=["check"]
untied = [name for name in bases[0] if not name.startswith("6.")]  # a tied layer by one name
histories = [{step: {n: run[step][n] for n in untied} for step in run} for run in runs]
print(exercises.check_later(later, histories))

# %% [markdown]
# <details><summary>Hint 6.3</summary>
#
# What in a spectrum does not change when $W$ is multiplied by a number, and moves all one way during
# training? `features.spectral_table` has several columns of that kind; not all of them are equally steady.
#
# </details>
# <details><summary>Expected output 6.3</summary>
#
# ```text
# Passed: 50 of 50 pairs told right, in both orders.
# ```
# </details>


# %% tags=["solution"]
# Solution 6.3 (click to open)
def spread(weights):
    squares = [torch.linalg.svdvals(W).square() for W in weights.values() if W.ndim == 2]
    return sum(s.sum() / s.max() for s in squares)


def later(a, b):
    return spread(b) < spread(a)


print(exercises.check_later(later, histories))

# %% [markdown]
# ### Exercise 6.4 ★★★ (open-ended, 20 minutes)
#
# Somebody has damaged a layer of each of these checkpoints, and left no note: its entries were put in random
# order, or it was initialised anew. And again every layer was multiplied by some number. Explore the three
# mysteries with `EsdExplorer`: shuffled weights, the Marchenko-Pastur law, the layers' table. Then write what
# your eye looks for as `find_damage(weights)`, which returns the name of the damaged layer.
#
# **Goal:** the right layer in 19 of 20 checkpoints, all of which you have not seen. Some of them were hardly
# trained; and one layer has ten eigenvalues only.

# %%
trained = [history[step] for history in histories for step in (8, 12, 20)]
mysteries = {i: exercises.make_mystery(trained[i], seed=2**i) for i in range(3)}
explorer = EsdExplorer(mysteries)
explorer.show_null = explorer.show_mp = True
explorer


# %% tags=["exercise"]
# Exercise 6.4
def find_damage(weights):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_find_damage(find_damage, trained))

# %% [markdown]
# <details><summary>Hint 6.4</summary>
#
# What you see must be put in units that neither the layer's shape nor a factor changes. Where would the
# largest eigenvalue be by chance, in a layer of that shape whose entries are as large?
#
# </details>
# <details><summary>Expected output 6.4</summary>
#
# ```text
# Passed: found in 120 of 120 checkpoints.
# ```
# </details>


# %% tags=["solution"]
# Solution 6.4 (click to open)
def find_damage(weights):
    def top_by_chance(W):
        sides = sum(side**0.5 for side in W.shape)
        return torch.linalg.matrix_norm(W, 2) / W.std() / sides

    return min(
        (n for n, W in weights.items() if W.ndim == 2), key=lambda n: top_by_chance(weights[n])
    )


print(exercises.check_find_damage(find_damage, trained))

# %% [markdown]
# ## Summary
#
# - Any checkpoint opens lazily; what it holds, and what it is byte for byte, comes first.
# - Spectra of all layers tell where training has acted. What chance gives, and a warning in words, belong
#   beside every number.
# - A fine-tune moved a layer along few directions, three or four; the way to another training has three times
#   as many, and noise eight times.
# - A barrier, a greedy soup and the worth of a merge take a loss. Weights alone do not tell them.
# - Merges are computed while they are written, whatever the memory.

# %% [markdown]
# ## For discussion
#
# 1. Somebody sends you a checkpoint and says that it is a fine-tune of a public model. Which of the figures
#    of this page would convince you, and how could each be forged?
# 2. The spectrum of a layer looks random. What are the possible reasons, and which of them can be told apart
#    without data?
# 3. Two checkpoints are at a small distance from each other. Name a case in which they behave quite
#    differently, and one in which a large distance means nothing.
# 4. A journal asks for "the alpha of the model". What would you report instead?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. A small relative change, an angle of a few degrees and a change of low stable rank in all layers speak for
#    it. Copying the public file and adding anything small forges all three; a long fine-tune with a high rate
#    hides a true kinship. Files prove nothing about how they came about; a log of the training does more.
# 2. Never trained; trained with too low a rate, or frozen; entries shuffled by a conversion; fewer than 50
#    eigenvalues; a wrong reading of the layout (a fused or transposed tensor). The initialisation's own
#    distribution of entries (uniform, as here, or normal) may tell the first two from the third.
# 3. A small change of the last layer's biases, or of one neuron on which all hangs; and a permutation of
#    neurons or a rescaling through a relu, which move far and change nothing (tutorial 00).
# 4. The table of all layers with n, the interval and the warnings; which layers were left out and why; the
#    same table for shuffled weights; the hash of the file.
#
# Where students go wrong: they change `CHECKPOINT` and read the prose as if it were about their model; they read
# alpha where there is a warning; they compare two trainings by distance; they choose a merge by the test set;
# in 6.4 they take one threshold for layers of all shapes. Time: 15 minutes for the first three sections, 20 for
# the comparison and its controls, 10 for the merges, the rest for exercises; 6.4 is good homework.
#
# </details>

# %% [markdown]
# ## References
#
# 1. C. H. Martin, T. Peng and M. W. Mahoney, *Predicting trends in the quality of state-of-the-art neural
#    networks without access to training or testing data*, Nature Communications 12, 4122, 2021,
#    arXiv:2002.06716.
# 2. G. Ilharco, M. T. Ribeiro, M. Wortsman, S. Gururangan, L. Schmidt, H. Hajishirzi and A. Farhadi, *Editing
#    models with task arithmetic*, ICLR 2023, arXiv:2212.04089.
# 3. E. J. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang and W. Chen, *LoRA: low-rank adaptation
#    of large language models*, ICLR 2022, arXiv:2106.09685.
# 4. R. Entezari, H. Sedghi, O. Saukh and B. Neyshabur, *The role of permutation invariance in linear mode
#    connectivity of neural networks*, ICLR 2022, arXiv:2110.06296.
# 5. G. Jin, X. Yi, L. Zhang, L. Zhang, S. Schewe and X. Huang, *How does weight correlation affect the
#    generalisation ability of deep neural networks*, NeurIPS 2020, arXiv:2010.05983.
# 6. M. Wortsman, G. Ilharco, S. Y. Gadre, R. Roelofs, R. Gontijo-Lopes, A. S. Morcos, H. Namkoong, A. Farhadi,
#    Y. Carmon, S. Kornblith and L. Schmidt, *Model soups: averaging weights of multiple fine-tuned models
#    improves accuracy without increasing inference time*, ICML 2022, arXiv:2203.05482.
#
# **Next:** a model of yours, or [07, many of them](07_at_scale.ipynb). The map of the kit is in `wskit.__doc__`;
# [05, model soups](05_model_soups.ipynb) and [01, spectra](01_esd.ipynb) say more of what was used here.
