# %% [markdown]
# # 03. Knowledge is a region
#
# **By the end you will have fine-tuned a hundred copies of one small network on twenty data sets and
# shown that what they have learned can be read off where they went:** copies that learned the same
# task leave in the same direction, and the mean of their weights is a better place to start learning
# that task from than the network that all of them came from. You will also have seen when this
# picture changes, and that networks from different starting points share no region until the order
# of their neurons is matched.
#
# | | |
# |---|---|
# | **You will be able to** | measure distances and angles between networks; cluster them; evaluate a network anywhere between, beyond and around others; start from a centroid; match the neurons of two networks |
# | **You should know** | [tutorial 00](00_start_here.ipynb); linear regression; what clustering does |
# | **Time** | 75 minutes to read and do, two to four minutes to run on two CPU cores |
# | **Downloads** | none |

# %% tags=["setup"]
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn import cluster, metrics
from torch import nn
from torch.nn import functional

from wskit import data, exercises, geometry, landscape, plots, widgets, zoo

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
N_BASES, N_SEEDS = 5, 5  # the size knobs: networks to begin with, fine-tunes of each data set

# %% [markdown]
# ## The question
#
# Gueta et al. (2023) fine-tuned one pretrained language model on many data sets and found that the
# fine-tuned models cluster in weight space: those of one data set most tightly, those of one task
# in a wider region. Inside of a region, between its models, other good models are found. Is
# knowledge, then, a place?
#
# ## Twenty data sets and one base
#
# Scikit-learn's digits serve for five tasks, and each task in four versions, turned by a few degrees
# more each time.

# %%
digits = data.load_dataset("digits", seed=0)
TASKS = {"digit": [], "odd": [1, 3, 5, 7, 9], "at least 5": [5, 6, 7, 8, 9]}
TASKS |= {"hole": [0, 6, 8, 9], "prime": [2, 3, 5, 7]}


# %%
def turn(images, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    grid = torch.tensor([[[c, -s, 0], [s, c, 0]]], dtype=torch.float32).expand(len(images), 2, 3)
    grid = functional.affine_grid(grid, images.shape, align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def dataset(task, degrees):
    x = {key: turn(getattr(digits, key), degrees) for key in ("train_x", "test_x")}
    y = {key: getattr(digits, key) for key in ("train_y", "test_y")}
    if task != "digit":
        y = {key: torch.isin(label, torch.tensor(TASKS[task])).long() for key, label in y.items()}
    return replace(digits, **x, **y)


# %%
fig, axs = plt.subplots(1, 4, figsize=(6, 1.8))
for ax, degrees in zip(axs, (0, 9, 18, 27), strict=True):
    ax.imshow(turn(digits.train_x[:1], degrees)[0, 0], cmap="gray_r")
    ax.set(title=f"turned by {degrees}°", xticks=[], yticks=[])
print("One image in the four versions: turned by 0, 9, 18 and 27 degrees.")

# %% [markdown]
# The base is pretrained without labels: half of the pixels of an image are hidden, and a network of
# two hidden layers has to fill them in. Its two layers, the **body**, are what will be fine-tuned.
# Their weights are `1.weight`, `1.bias`, `3.weight` and `3.bias`.


# %%
def layers():
    return [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]


def pretrain(seed, n_updates=1500):
    torch.manual_seed(seed)
    net, x = nn.Sequential(*layers(), nn.Linear(64, 64)), digits.train_x
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(n_updates):
        batch = x[torch.randint(len(x), (64,))]
        hidden = batch * (torch.rand_like(batch) < 0.5)
        loss = functional.mse_loss(net(hidden), batch.flatten(1))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return {name: W.detach() for name, W in net.state_dict().items() if name[0] in "13"}


# %% [markdown]
# `fine_tune` puts a new head on a copy of the base and trains both on one data set, briefly; five
# times, with other heads and batches, for each of the twenty. `train_zoo` trains the five together.


# %%
def fine_tune(base, shift=0.1, versions=4, images=None, n_updates=100):
    def start():
        net = nn.Sequential(*layers(), nn.Linear(64, 10))
        net.load_state_dict(base, strict=False)
        return net

    zoos, settings = [], {"learning_rate": 2e-3, "batch_size": 32}
    for i, (task, version) in enumerate((t, v) for t in TASKS for v in range(versions)):
        part = dataset(task, 90 * shift * version)
        part = replace(part, train_x=part.train_x[:images], train_y=part.train_y[:images])
        settings["epochs"] = n_updates * 32 / len(part.train_x)
        seeds = 1000 * i + np.arange(N_SEEDS)
        found = zoo.train_zoo(start, part, pd.DataFrame(settings, seeds), seeds=seeds)
        zoos.append(zoo.Zoo(found.weights, found.records.assign(task=task, version=version)))
    return zoo.concatenate(zoos)


# %% tags=["approximate"]
bases = [pretrain(seed) for seed in range(N_BASES)]
tuned = [fine_tune(base) for base in bases]
records = pd.concat([models.records for models in tuned])
print(len(tuned[0]), "fine-tunes of each of", N_BASES, "bases; their test accuracy:")
print(records.groupby("task", sort=False).test_accuracy.agg(["mean", "std"]).round(3).to_string())

# %% [markdown]
# **Predict first.** Where will the hundred copies land: all over, in five groups, in four, or in
# twenty?
#
# ## Directions
#
# What a fine-tune has learned is its **update** $w - w_0$, the difference to the base, of the body
# only: heads of different tasks cannot be compared. Two updates are compared by their angle, or by
# its cosine.


# %%
def measure(base, models):
    return geometry.weight_distances({name: models.weights[name] for name in base}, base)


distances = [measure(*pair) for pair in zip(bases, tuned, strict=True)]
first, second = (tuned[0].model(i) for i in (0, 1))
u, v = (torch.cat([(w[n] - bases[0][n]).flatten() for n in bases[0]]) for w in (first, second))
by_hand = (u @ v / u.norm() / v.norm()).item()
print("equal to the helper:", np.isclose(by_hand, distances[0].cosine()[0, 1], atol=1e-5))

# %% tags=["approximate"]
task, version = (tuned[0].records[key].to_numpy() for key in ("task", "version"))
same_task, same_version = task[:, None] == task, version[:, None] == version
groups = {"same data set": same_task & same_version & ~np.eye(len(task), dtype=bool)}
groups |= {"same task": same_task & ~same_version, "same version": ~same_task & same_version}
groups["neither"] = ~same_task & ~same_version
rows = [{name: d.cosine()[mask].mean() for name, mask in groups.items()} for d in distances]
print(pd.DataFrame(rows).agg(["mean", "std"]).T.round(3).to_string())

# %% [markdown]
# Copies that learned the same data set are the most alike, those of the same task less, and others
# the least. Yet the cosines are small: in thousands of dimensions, a cosine of 0.2 is a lot.
#
# ## Clusters
#
# Does a clustering find the tasks without being told? Scikit-learn's, on updates of length 1: Ward's,
# and the paper's spectral clustering of the cosines. The adjusted Rand index (ARI) compares with the
# truth: 1 is the same, 0 is chance.


# %%
def clusters(distance, kind):
    cosine = distance.cosine()
    truths = {"task": (task, 5), "version": (version, 4)}
    truths["data set"] = np.char.add(task.astype(str), version.astype(str)), 20
    rows = []
    for truth, (true, k) in truths.items():
        spectral = cluster.SpectralClustering(k, affinity="precomputed", random_state=0)
        ward = cluster.AgglomerativeClustering(k)
        found = {"Ward": ward.fit_predict(np.linalg.cholesky(cosine))}
        found["spectral"] = spectral.fit_predict(cosine.clip(0))
        rows += [(kind, truth, m, metrics.adjusted_rand_score(true, c)) for m, c in found.items()]
    return rows


# %% tags=["approximate"]
rows = [row for distance in distances for row in clusters(distance, "small")]
recovered = pd.DataFrame(rows, columns=["shift", "truth", "method", "ARI"])
print(recovered.groupby(["truth", "method"], sort=False).ARI.agg(["mean", "std"]).round(2))

# %% tags=["nbval-ignore-output"]
fig, axs = plt.subplots(1, 2, figsize=(10, 4.5))
plots.plot_distance_matrix(distances[0].cosine(), groups=task, measure="cosine", ax=axs[0])
seen = geometry.project_updates(distances[0])
plots.plot_model_map(seen.coordinates, groups=task, markers=version, base=seen.base, ax=axs[1])
print(plots.describe(fig))

# %% [markdown]
# The tasks come out nearly whole, by Ward's method; the versions not at all. Ward's method is given
# a Cholesky factor of the cosines, whose rows have the same angles as the updates. The map shows two
# of a hundred directions: one leads from the tasks of two classes to that of ten, the other spreads
# the rest, and the star is the base that all have left.
#
# ## Between, beyond, around
#
# What is a body worth by itself? A linear **probe**, fitted in closed form to the body's outputs $H$
# and the labels $Y$, $B = (H^\top H + I)^{-1} H^\top Y$, replaces the head; its squared error on test
# images is the loss, as if the data set were new to the body. As a function of stacked weights, so
# that many bodies are evaluated at once:


# %%
def body(weights, images):
    h = images.flatten(1)
    for i in "13":
        h = torch.relu(h @ weights[f"{i}.weight"].mT + weights[f"{i}.bias"][:, None])
    return functional.pad(h, (0, 1), value=1.0)  # and a constant


# %%
def probe(part, images=slice(None)):
    def evaluate(weights):
        H, H_test = (body(weights, x) for x in (part.train_x[images], part.test_x))
        Y, Y_test = (functional.one_hot(y, 10).float() for y in (part.train_y[images], part.test_y))
        outputs = H_test @ torch.linalg.solve(H.mT @ H + torch.eye(65), H.mT @ Y)
        right = (outputs.argmax(-1) == part.test_y).float()
        loss = (outputs - Y_test).square().sum(-1)
        return {"loss": loss.mean(1), "accuracy": right.mean(1)}

    return evaluate


# %%
def bodies(models, mask):
    return [{name: models.weights[name][i] for name in bases[0]} for i in np.flatnonzero(mask)]


a, b = bodies(tuned[0], (task == "hole") & (version == 0))[:2]
other = bodies(tuned[0], (task == "prime") & (version == 0))[0]
ends = {"same data set": b, "another task": other}
evaluate, alphas = probe(dataset("hole", 0)), np.linspace(-2, 3, 26)
paths = {name: landscape.loss_path(evaluate, a, end, alphas=alphas) for name, end in ends.items()}
print({name: f"barrier {landscape.barrier(path):.2f}" for name, path in paths.items()})

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots()
for name, path in paths.items():
    plots.plot_loss_path(path, label=name, ax=ax)
ax.set_ylabel("squared error of the probe")
print(plots.describe(ax))

# %% [markdown]
# There is no hill between the two models of one data set. Now for all data sets and bases, the
# groups of the paper: the fine-tunes themselves (*edge*), random points of their convex hull
# (*inside*), points beyond them on the lines through two of them (*outside*), and a control, points
# as far from the base as those inside, in *random* directions. How often is a point of one group
# better than one of another?


# %%
def better(base, region, part):
    found = landscape.region_losses(probe(part), region, base, n_points=10, seed=0)
    loss = {group: rows.to_numpy() for group, rows in found.groupby("group").loss}
    rivals = ("random", "edge", "outside")
    return {y: landscape.probability_of_better(loss["inside"], loss[y]) for y in rivals}


# %% tags=["approximate"]
pairs = [(base, models, t) for base, models in zip(bases, tuned, strict=True) for t in TASKS]
rows = [better(b, bodies(m, (task == t) & (version == 0)), dataset(t, 0)) for b, m, t in pairs]
inside = pd.DataFrame(rows)
print(inside.agg(["mean", "std"]).T.rename("inside better than {}".format).round(2))

# %% [markdown]
# In a random direction at the same distance, a body is nearly always worse than inside of the region.
# But the inside is **not** better than its edge here, as the paper found it, and the outside is no
# cliff: as often as not it is the better place.
#
# ## The centroid as a start
#
# The paper's most useful claim: the mean of all fine-tunes is a better start than the base, for data
# that none of them has seen. With 20 labelled images of a data set, how good is a probe on the body
# of the base, of one other fine-tune, of the mean of all others, of the mean of those of other
# *tasks* only, and of the mean of the same task in other versions?


# %%
def starts(base, models, name, turned, rng):
    """The base and its rivals for one data set, stacked."""
    own = (task == name) & (version == turned)
    rivals = {"one other": np.arange(len(own)) == rng.choice(np.flatnonzero(~own))}
    rivals |= {"mean of other tasks": task != name, "mean of all others": ~own}
    rivals["mean of the same task"] = (task == name) & ~own
    chosen = [torch.as_tensor(np.flatnonzero(mask)) for mask in rivals.values()]
    means = {n: [models.weights[n][rows].mean(0) for rows in chosen] for n in base}
    return ["base", *rivals], {n: torch.stack([base[n], *means[n]]) for n in base}


# %%
rows, rng = [], np.random.default_rng(0)
for base, models in zip(bases, tuned, strict=True):
    for name, turned in [(t, v) for t in TASKS for v in range(4)]:
        names, stack = starts(base, models, name, turned, rng)
        draws = torch.as_tensor(
            rng.permuted(np.tile(np.arange(len(digits.train_x)), (3, 1)), axis=1)
        )
        part = dataset(name, 9 * turned)
        right = [probe(part, few[:20])(stack)["accuracy"] for few in draws]
        rows.append(dict(zip(names, torch.stack(right).mean(0).tolist(), strict=True)))

# %% tags=["approximate"]
right = pd.DataFrame(rows)
gain = right.drop(columns="base").sub(right.base, axis=0)
print(f"Accuracy of the base {right.base.mean():.3f}; gains, and the share of data sets won:")
print(gain.agg(["mean", "std"]).T.assign(won=(gain > 0).mean()).round(3).to_string())

# %% [markdown]
# Every mean beats the base on most data sets, and the mean of the same task in *other* versions on
# nearly all: what was learned on images that were turned by other angles is there, in the weights,
# before a single image of this version is seen.
#
# ## No region without a common start
#
# All of this was about copies of one base. Two networks that were initialised anew share nothing that
# one could average, although they are equally good. Is that because their neurons stand in a
# different order? Ainsworth et al. (2022) look for the permutation of the hidden neurons of one
# network that brings its weights nearest to the other's: one assignment problem a layer, in turns.

# %%
mlp, settings = zoo.MLP((64, 128, 128, 10)), {"learning_rate": 1e-3, "epochs": 15}
nets = zoo.train_zoo(mlp, digits, pd.DataFrame(settings, range(2 * N_BASES)))
evaluate = landscape.zoo_metrics(mlp, digits.test_x, digits.test_y)

# %% tags=["approximate"]
rows = []
for i in range(N_BASES):
    a, b = nets.model(2 * i), nets.model(2 * i + 1)
    match = geometry.match_weights(b, a, geometry.sequential_symmetries(a), seed=0)
    before, after = (landscape.loss_path(evaluate, a, end) for end in (b, match.weights))
    middle = [path.accuracies[len(path.alphas) // 2] for path in (before, after)]
    rows.append([before.accuracies[0], *middle, *map(landscape.barrier, (before, after))])
columns = ["accuracy", "half-way", "half-way, matched", "barrier", "barrier, matched"]
print(pd.DataFrame(rows, columns=columns).agg(["mean", "std"]).T.round(2).to_string())

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots()
for name, path in {"as trained": before, "neurons matched": after}.items():
    plots.plot_loss_path(path, label=name, ax=ax)
print(plots.describe(ax))

# %% [markdown]
# Half of the way between two such networks the accuracy is far below that of either; after matching,
# nearly all of it is back. Much of what seemed to be another place was the same place under another
# name.
#
# ## What would have fooled us
#
# **Is it the task?** It was, because the versions were nearly the same. Now the same experiment with
# versions turned by 0, 90, 180 and 270 degrees:

# %% tags=["approximate"]
far = [fine_tune(base, shift=1.0) for base in bases]
measured = [measure(base, models) for base, models in zip(bases, far, strict=True)]
rows = [row for distance in measured for row in clusters(distance, "large")]
recovered = pd.concat([recovered, pd.DataFrame(rows, columns=recovered.columns)])
print(recovered.pivot_table(index="truth", columns=["method", "shift"], values="ARI").round(2))

# %% [markdown]
# The copies now cluster by *version*, and not by task at all. What a network learns first about
# images upside down is that they are upside down. "Models of a task share a region" holds where the
# data of the task are alike; the paper's families of Twitter texts, which it failed to cluster, may
# say the same.
#
# **Is the inside better than the edge?** Not above. Now fine-tunes that overfit: 100 images only,
# and four times as many updates.

# %% tags=["approximate"]
over = [fine_tune(base, versions=1, images=100, n_updates=300) for base in bases]
pairs = [(base, models, t) for base, models in zip(bases, over, strict=True) for t in TASKS]
rows = [better(b, bodies(m, m.records.task == t), dataset(t, 0)) for b, m, t in pairs]
overfitted = pd.DataFrame(rows)
print(overfitted.agg(["mean", "std"]).T.rename("inside better than {}".format).round(2))

# %% [markdown]
# Now the inside is better than its edge, as in the paper: what two overfitted copies got wrong by
# chance averages out. Which of the paper's claims one finds depends on how alike the data are and on
# how far the training went.
#
# ## Look around
#
# Choose three models, and walk on the plane through them: inside of their triangle, over its edges,
# far outside. **A goal:** find a place outside of the triangle that is better than all three corners.


# %%
probes = {t: probe(dataset(t, 0)) for t in TASKS}


def on_all_tasks(weights):
    found = {t: evaluate(weights) for t, evaluate in probes.items()}
    loss = torch.stack([numbers["loss"] for numbers in found.values()]).mean(0)
    return {"loss": loss} | {t: numbers["accuracy"] for t, numbers in found.items()}


names = [f"{t} {i % N_SEEDS}" for i, t in enumerate(task[version == 0])]
places = pd.DataFrame(seen.coordinates - seen.base, columns=["x", "y"]).assign(task=task)

# %% tags=["nbval-ignore-output"]
corners = dict(zip(names, bodies(tuned[0], version == 0), strict=True))
explorer = widgets.RegionExplorer(corners, on_all_tasks, base=bases[0], map=places[version == 0])
explorer.first, explorer.second, explorer.third = "digit 0", "hole 0", "prime 0"
explorer.wait()
explorer

# %% [markdown]
# ## The paper's table, and ours
#
# The paper's figures are of RoBERTa and 36 sets of texts, as far as they could be had: accuracy of the
# clusters, not ARI.

# %% tags=["approximate"]
ward = recovered[recovered.method == "Ward"].groupby(["shift", "truth"]).ARI.mean()
lines = {"same data set clusters": ("98 % right", f"ARI {ward['small', 'data set']:.2f}")}
lines["same task clusters"] = "90 % right", f"ARI {ward['small', 'task']:.2f}"
lines["mean as a start, full data, points"] = "+4.0", "not tried"
lines["mean as a start, few shots, points"] = "+10.7", f"+{100 * gain.mean().iloc[2]:.1f}"
lines["inside better than the edge"] = "0.88", f"{inside.edge.mean():.2f}"
lines["the same, overfitted"] = "", f"{overfitted.edge.mean():.2f}"
print(pd.DataFrame(lines, index=["paper", "here"]).T.to_string())

# %% [markdown]
# ## Limits
#
# - One small network and one set of images; five bases that differ in their seed only, fine-tuned on
#   the same data sets. The spread over data sets is larger than that over bases.
# - The loss of a body is that of a linear probe; with the fine-tunes' own heads it would be another.
# - "Outside" is one length beyond the models; further out there is an edge, which exercise 3.2 seeks.
# - The large shift and the overfitting were tried at one setting each.
# - Networks of one base and data set were counted as one region. Juneja et al. (2023) found
#   fine-tunes of one task in regions that are not connected, which did not happen here.
#
# ## Exercise 3.1 (10 minutes)
#
# Write the cosine of two updates: a function of two sets of weights and their base, each a dict of
# tensors.


# %% tags=["exercise"]
# Exercise 3.1
def update_cosine(a, b, base):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_update_cosine(update_cosine))

# %% [markdown]
# <details><summary>Hint 3.1</summary>
#
# What has training added? All tensors are one vector: products and lengths add up over them before
# anything is divided.
#
# </details>


# %% tags=["solution"]
# Solution 3.1 (click to open)
def update_cosine(a, b, base):
    u, v = (torch.cat([(w[n] - base[n]).flatten() for n in base]) for w in (a, b))
    return (u @ v / (u.norm() * v.norm())).item()


print(exercises.check_update_cosine(update_cosine))

# %% [markdown]
# ## Exercise 3.2, a game
#
# You stand inside of a region and look in one direction. `loss(alpha)` tells the loss at a distance
# alpha, and every question counts. Where does the loss rise over `level`? Return the edge to within
# 1 %. The edge may be at 0.3 or at 200. **The goal:** at most 12 questions on average, over edges
# that you do not know; under 6 is very good.


# %% tags=["exercise"]
# Exercise 3.2
def find_edge(loss, level):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_find_edge(find_edge))

# %% [markdown]
# <details><summary>Hint 3.2</summary>
#
# First find any place that is outside; distances of all sizes are possible, so do not walk in equal
# steps. Then halve what is left. A better guess than the middle needs an idea of the loss's shape.
#
# </details>


# %% tags=["solution"]
# Solution 3.2 (click to open)
def find_edge(loss, level):
    low, high = 0.0, 1.0
    while loss(high) < level:
        low, high = high, 4 * high
    while high - low > 0.01 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < level else (low, middle)
    return low


print(exercises.check_find_edge(find_edge))

# %% [markdown]
# ## Summary
#
# - The update of a fine-tuned network tells what it learned: updates of one data set are the most
#   alike, of one task less, and clustering finds the tasks.
# - It finds versions in their place when these differ more than the tasks do.
# - Inside of a region networks are better than at the same distance in a random direction. Better than
#   the region's own edge they are only where the fine-tunes overfit. No cliff was met nearby.
# - The mean of the other fine-tunes is a better start than the base, on most data sets; that of the
#   same task in other versions on nearly all.
# - Networks from two initialisations share no region as they are. With their neurons matched, nearly
#   all of the accuracy is kept half-way.
#
# ## References
#
# 1. A. Gueta, E. Venezian, C. Raffel, N. Slonim, Y. Katz and L. Choshen, *Knowledge is a region in
#    weight space for fine-tuned language models*, Findings of EMNLP 2023, arXiv:2302.04863.
# 2. S. K. Ainsworth, J. Hayase and S. Srinivasa, *Git Re-Basin: merging models modulo permutation
#    symmetries*, ICLR 2023, arXiv:2209.04836.
# 3. R. Entezari, H. Sedghi, O. Saukh and B. Neyshabur, *The role of permutation invariance in linear
#    mode connectivity of neural networks*, ICLR 2022, arXiv:2110.06296.
# 4. J. Juneja, R. Bansal, K. Cho, J. Sedoc and N. Saphra, *Linear connectivity reveals generalization
#    strategies*, ICLR 2023, arXiv:2205.12411.
# 5. S. Don-Yehiya, E. Venezian, C. Raffel, N. Slonim, Y. Katz and L. Choshen, *ColD Fusion:
#    collaborative descent for distributed multitask finetuning*, ACL 2023, arXiv:2212.01378.
