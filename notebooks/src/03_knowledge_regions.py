# %% [markdown]
# # 03. Knowledge is a region
#
# **By the end you will have fine-tuned a hundred copies of one small network on twenty data sets and
# shown that what they have learned can be read off where they went:** copies that learned the same
# task leave in the same direction, and the mean of their weights is a better place to start learning
# that task from than the network that all of them came from.
#
# You will also have seen when this picture changes, and that networks from different starting points share no region until the order
# of their neurons is matched.
#
# | | |
# |---|---|
# | **You will be able to** | measure distances and angles between networks; cluster them; evaluate a network anywhere between, beyond and around others; start from a centroid; match the neurons of two networks |
# | **You should know** | [tutorial 00](00_start_here.ipynb); linear regression; what clustering does |
# | **Time to read** | 110 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
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

from wskit import course, data, exercises, geometry, landscape, plots, widgets, zoo

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
torch.set_default_dtype(torch.float64)  # every processor then comes to the same numbers
N_BASES, N_SEEDS = 5, 5  # the size knobs: networks to begin with, fine-tunes of each data set

# %% [markdown]
# ## The question
#
# Gueta et al. (2023) fine-tuned one pretrained language model on many data sets and found that the
# fine-tuned models cluster in weight space: those of one data set most tightly, those of one task
# in a wider region. Inside of a region, between its models, other good models are found. Is
# knowledge, then, a place?

# %% [markdown]
# ## Twenty data sets and one base
#
# Scikit-learn's digits serve for five tasks, and each task in four versions, turned by a few degrees
# more each time.

# %%
digits = data.load_dataset("digits", seed=0)
digits = replace(digits, train_x=digits.train_x.double(), test_x=digits.test_x.double())
TASKS = {"digit": [], "odd": [1, 3, 5, 7, 9], "at least 5": [5, 6, 7, 8, 9]}
TASKS |= {"hole": [0, 6, 8, 9], "prime": [2, 3, 5, 7]}


# %%
def turn(images, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    grid = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]]).expand(len(images), 2, 3)
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
        settings["seed"] = 1000 * i + np.arange(N_SEEDS)
        found = zoo.train_zoo(start, part, pd.DataFrame(settings))
        zoos.append(zoo.Zoo(found.weights, found.records.assign(task=task, version=version)))
    return zoo.concatenate(zoos)


# %%
bases = [pretrain(seed) for seed in range(N_BASES)]
tuned = [fine_tune(base) for base in bases]
records = pd.concat([models.records for models in tuned])
print(len(tuned[0]), "fine-tunes of each of", N_BASES, "bases; their test accuracy:")
print(records.groupby("task", sort=False).test_accuracy.agg(["mean", "std"]).round(3).to_string())

# %% [markdown]
# **Predict first.** Where will the hundred copies land: all over, in five groups, in four, or in
# twenty?

# %% [markdown]
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

# %%
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

# %% [markdown]
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


# %%
rows = [row for distance in distances for row in clusters(distance, "small")]
recovered = pd.DataFrame(rows, columns=["shift", "truth", "method", "ARI"])
print(recovered.groupby(["truth", "method"], sort=False).ARI.agg(["mean", "std"]).round(2))

# %%
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

# %% [markdown]
# ## Between, beyond, around
#
# What is a body worth by itself? A linear **probe**, fitted in closed form to the body's outputs $H$
# and the labels $Y$, $B = (H^\top H + I)^{-1} H^\top Y$, replaces the head; its squared error on test
# images is the loss, as if the data set were new to the body.
#
# As a function of stacked weights, so that many bodies are evaluated at once:


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
        Y, Y_test = (
            functional.one_hot(y, 10).double() for y in (part.train_y[images], part.test_y)
        )
        outputs = H_test @ torch.linalg.solve(H.mT @ H + torch.eye(65), H.mT @ Y)
        right = (outputs.argmax(-1) == part.test_y).double()
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

# %%
fig, ax = plt.subplots()
for name, path in paths.items():
    plots.plot_loss_path(path, label=name, ax=ax)
ax.set_ylabel("squared error of the probe")
print(plots.describe(ax))

# %% [markdown]
# There is no hill between the two models of one data set.

# %% [markdown]
# ### Inside, at the edge, outside
#
# Now for all data sets and bases, the groups of the paper: the fine-tunes themselves (*edge*),
# random points of their convex hull (*inside*), points beyond them on the lines through two of them
# (*outside*), and a control, points as far from the base as those inside, in *random* directions.
# How often is a point of one group better than one of another?


# %%
def better(base, region, part):
    found = landscape.region_losses(probe(part), region, base, n_points=10, seed=0)
    loss = {group: rows.to_numpy() for group, rows in found.groupby("group").loss}
    rivals = ("random", "edge", "outside")
    return {y: (loss["inside"][:, None] < loss[y]).mean() for y in rivals}  # of all pairs


# %%
pairs = [(base, models, t) for base, models in zip(bases, tuned, strict=True) for t in TASKS]
rows = [better(b, bodies(m, (task == t) & (version == 0)), dataset(t, 0)) for b, m, t in pairs]
inside = pd.DataFrame(rows)
print(inside.agg(["mean", "std"]).T.rename("inside better than {}".format).round(2))

# %% [markdown]
# In a random direction at the same distance, a body is nearly always worse than inside of the region.
# But the inside is **not** better than its edge here, as the paper found it, and the outside is no
# cliff: as often as not it is the better place.

# %% [markdown]
# ## The centroid as a start
#
# The paper's most useful claim: the mean of all fine-tunes is a better start than the base, for data
# that none of them has seen. With 20 labelled images of a data set, how good is a probe?
#
# It is measured on the body of the base, of one other fine-tune, of the mean of all others, of the
# mean of those of other *tasks* only, and of the mean of the same task in other versions.


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

# %%
right = pd.DataFrame(rows)
gain = right.drop(columns="base").sub(right.base, axis=0)
print(f"Accuracy of the base {right.base.mean():.3f}; gains, and the share of data sets won:")
print(gain.agg(["mean", "std"]).T.assign(won=(gain > 0).mean()).round(3).to_string())

# %% [markdown]
# Every mean beats the base on most data sets, and the mean of the same task in *other* versions on
# nearly all: what was learned on images that were turned by other angles is there, in the weights,
# before a single image of this version is seen.

# %% [markdown]
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

# %%
rows = []
for i in range(N_BASES):
    a, b = nets.model(2 * i), nets.model(2 * i + 1)
    match = geometry.match_weights(b, a, geometry.sequential_symmetries(a), seed=0)
    before, after = (landscape.loss_path(evaluate, a, end) for end in (b, match.weights))
    middle = [path.accuracies[len(path.alphas) // 2] for path in (before, after)]
    rows.append([before.accuracies[0], *middle, *map(landscape.barrier, (before, after))])
columns = ["accuracy", "half-way", "half-way, matched", "barrier", "barrier, matched"]
matching = pd.DataFrame(rows, columns=columns)
print(matching.agg(["mean", "std"]).T.round(2).to_string())

# %%
fig, ax = plt.subplots()
for name, path in {"as trained": before, "neurons matched": after}.items():
    plots.plot_loss_path(path, label=name, unit="nats", ax=ax)
print(plots.describe(ax))

# %% [markdown]
# Half of the way between two such networks the accuracy is far below that of either; after matching,
# nearly all of it is back. Much of what seemed to be another place was the same place under another
# name.

# %% [markdown]
# ## What would have fooled us
#
# **Is it the task?** It was, because the versions were nearly the same. Now the same experiment with
# versions turned by 0, 90, 180 and 270 degrees:

# %%
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

# %% [markdown]
# ### Where fine-tunes overfit
#
# **Is the inside better than the edge?** Not above. Now fine-tunes that overfit: 100 images only,
# and three times as many updates.

# %%
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
# far outside. The panel shows the mean loss over the five tasks, on every second test image; the
# other half is kept for an exercise.


# %%
def on_all_tasks(half):
    def halved(part):
        return replace(part, test_x=part.test_x[half::2], test_y=part.test_y[half::2])

    probes = {t: probe(halved(dataset(t, 0))) for t in TASKS}

    def evaluate(weights):
        found = {t: measured(weights) for t, measured in probes.items()}
        loss = torch.stack([numbers["loss"] for numbers in found.values()]).mean(0)
        return {"loss": loss} | {t: numbers["accuracy"] for t, numbers in found.items()}

    return evaluate


# %%
shown, hidden = on_all_tasks(0), on_all_tasks(1)
names = [f"{t} {i % N_SEEDS}" for i, t in enumerate(task[version == 0])]
places = pd.DataFrame(seen.coordinates - seen.base, columns=["x", "y"]).assign(task=task)

# %%
corners = dict(zip(names, bodies(tuned[0], version == 0), strict=True))
explorer = widgets.RegionExplorer(
    corners, shown, base=bases[0], map=places[version == 0], unit="nats"
)
explorer.first, explorer.second, explorer.third = "digit 0", "hole 0", "prime 0"
explorer.wait()
explorer

# %% [markdown]
# ## The paper's claims, and ours
#
# Claims of Gueta et al. (2023) and, the last one, of Ainsworth et al. (2022), in our words, beside
# what this page saw. ± is the standard deviation over the five bases.
#
# The figures of Gueta et al. are of RoBERTa and 36 sets of texts, as far as they could be had: the
# accuracy of the clusters, not ARI.

# %% tags=["claims", "hide-input"]
# The paper's claims beside ours (click to open the code)


def spread(values, digits=2):
    of_a_base = np.asarray(values).reshape(N_BASES, -1).mean(axis=1)
    return f"{of_a_base.mean():.{digits}f} ± {of_a_base.std(ddof=1):.{digits}f}"


chosen = recovered[recovered.method == "Ward"].groupby(["shift", "truth"]).ARI
ari = {key: spread(values) for key, values in chosen}
course.claims(
    (
        "models fine-tuned on one data set cluster: 98 % right",
        f"ARI {ari['small', 'data set']}",
        N_BASES,
        f"only where data sets differ: turned by 90 degrees and more, ARI {ari['large', 'data set']}",
    ),
    (
        "so do models of one task, in a wider region: 90 % right",
        f"ARI {ari['small', 'task']}",
        N_BASES,
        f"ARI {ari['large', 'task']} with versions turned by 90 degrees and more",
    ),
    (
        "the inside of a region is better than its edge: in a share of 0.88",
        f"in a share of {spread(inside.edge)}",
        N_BASES,
        f"it is {spread(overfitted.edge)} where the fine-tunes overfit",
    ),
    (
        "the mean of fine-tunes is a better start than the base: by 10.7 points with few examples",
        f"accuracy larger by {spread(gain['mean of all others'], 3)}, with 20 images",
        N_BASES,
        "full data, where the paper has 4.0 points, were not tried",
    ),
    (
        "neurons in another order are all that keeps two networks of different starts apart",
        f"barrier {spread(matching['barrier'])} nats, matched {spread(matching['barrier, matched'])}",
        N_BASES,
        "it does not vanish: layers of 128 neurons, and the paper's are wider",
    ),
)

# %% [markdown]
# ## Limits
#
# - One small network and one set of images; five bases that differ in their seed only, fine-tuned on
#   the same data sets. The spread over data sets is larger than that over bases.
# - The loss of a body is that of a linear probe; with the fine-tunes' own heads it would be another.
# - "Outside" is one length beyond the models; further out there is an edge, which exercise 3.4 seeks.
# - The large shift and the overfitting were tried at one setting each.
# - Networks of one base and data set were counted as one region. Juneja et al. (2023) found
#   fine-tunes of one task in regions that are not connected, which did not happen here.

# %% [markdown]
# ## Exercises
#
# Each is checked by the cell under it, which says what is wrong and never what is right.

# %% [markdown]
# ### Exercise 3.1 ★ (10 minutes)
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
#
# <details><summary>Expected output 3.1</summary>
#
# ```text
# Passed: the updates are compared, as two vectors.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 3.1 (click to open)
def update_cosine(a, b, base):
    u, v = (torch.cat([(w[n] - base[n]).flatten() for n in base]) for w in (a, b))
    return (u @ v / (u.norm() * v.norm())).item()


print(exercises.check_update_cosine(update_cosine))

# %% [markdown]
# ### Exercise 3.2 ★★ (15 minutes)
#
# Read off an update what it has learned. Your function gets the update of a fine-tune as a vector,
# those of other fine-tunes as the rows of an array, and their tasks; it returns a task. None of the
# others has seen the same data set, only other versions of the task. Nine of ten must be right.

# %%
stacked = [(tuned[0].weights[n] - bases[0][n]).flatten(1) for n in bases[0]]
updates = torch.cat(stacked, dim=1).numpy()


# %% tags=["exercise"]
# Exercise 3.2
def read_task(update, others, tasks):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_read_task(read_task, updates, task, version))

# %% [markdown]
# <details><summary>Hint 3.2</summary>
#
# Where is the middle of what one task's updates have in common? Ten classes move a network farther
# than two: what must not count in the comparison?
#
# </details>
#
# <details><summary>Expected output 3.2</summary>
#
# ```text
# Passed: a share of 1.00 is right, each on a data set that no other has seen.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 3.2 (click to open)
def read_task(update, others, tasks):
    means = {name: others[tasks == name].mean(axis=0) for name in np.unique(tasks)}
    return max(means, key=lambda name: means[name] @ update / np.linalg.norm(means[name]))


print(exercises.check_read_task(read_task, updates, task, version))

# %% [markdown]
# ### Exercise 3.3 ★★ (15 minutes)
#
# Match the neurons of one layer. Row $i$ of `A` holds the weights into neuron $i$ of one network,
# those of `B` are another's. Return the order with the least squared distance of `B[order]` to
# `A`. Each row of `B` is taken once. (`scipy.optimize.linear_sum_assignment` is the tool, if you
# give it the right table.)


# %% tags=["exercise"]
# Exercise 3.3
def match_neurons(A, B):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_match_neurons(match_neurons))

# %% [markdown]
# <details><summary>Hint 3.3</summary>
#
# What does it cost to put row $j$ of `B` at place $i$? Write out the squared distance of two rows:
# which of its parts depends on who is paired with whom?
#
# </details>
#
# <details><summary>Expected output 3.3</summary>
#
# ```text
# Passed: no other order is nearer.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 3.3 (click to open)
def match_neurons(A, B):
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(A @ B.T, maximize=True)[1]


print(exercises.check_match_neurons(match_neurons))

# %% [markdown]
# ### Exercise 3.4 ★★★ (15 minutes)
#
# A game. You stand inside of a region and look in one direction. `loss(distance)` tells the loss at a
# distance from you, and every question counts. Where does the loss rise over `level`? Return the edge to
# within 1 %. It may be at 0.3 or at 200. At most 12 questions on average, over edges that you do not
# know; under 6 is very good.


# %% tags=["exercise"]
# Exercise 3.4
def find_edge(loss, level):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_find_edge(find_edge))

# %% [markdown]
# <details><summary>Hint 3.4</summary>
#
# First find any place that is outside; distances of all sizes are possible, so do not walk in equal
# steps. Then halve what is left. A better guess than the middle needs an idea of the loss's shape.
#
# </details>
#
# <details><summary>Expected output 3.4</summary>
#
# ```text
# Passed: all edges are right, with 10.7 questions on average, 13 at most.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 3.4 (click to open)
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
# ### Exercise 3.5 ★★★ (open-ended, 20 minutes)
#
# Is a region's best place inside of it? Explore with the `RegionExplorer` above: choose three models,
# walk out of their triangle, watch the loss. In which direction does it fall, and for which corners?
# When you have found a place, return the three names and their shares, which sum to 1:
# `{"digit 0": ..., "hole 0": ..., "prime 0": ...}`.
#
# What holds for one base may be chance. The check goes to the same place, with the models of the same
# names, in the regions of all five bases, and measures on the other half of the test images.
#
# **Goal:** a place outside of the triangle whose loss is below that of all three corners, on average
# and in four of five regions.

# %%
regions = [dict(zip(names, bodies(models, version == 0), strict=True)) for models in tuned]


# %% tags=["exercise"]
# Exercise 3.5
def place():
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_place(place, regions, hidden))

# %% [markdown]
# <details><summary>Hint 3.5</summary>
#
# Which tasks leave a body that is good for the others as well? A negative share goes away from a
# model: from which would you go away? Small steps are lost in the noise of 180 images.
#
# </details>
#
# <details><summary>Expected output 3.5</summary>
#
# ```text
# Passed: a loss of 0.127, where the best corners have 0.139; it is lower in a share of 1.00 of 5 regions.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 3.5 (click to open)
def place():
    return {"digit 3": 1.5, "prime 0": 0.5, "odd 0": -1.0}


print(exercises.check_place(place, regions, hidden))

# %% [markdown]
# ## Summary
#
# - The update of a fine-tuned network tells what it learned: updates of one data set are the most
#   alike, of one task less, and clustering finds the tasks.
# - It finds versions in their place when these differ more than the tasks do.
# - Inside of a region networks are better than at the same distance in a random direction. Better than
#   the region's own edge they are only where the fine-tunes overfit. No cliff was met nearby.
# - The mean of the other fine-tunes is a better start than the base; that of the same task in other
#   versions is on nearly all data sets.
# - Networks from two initialisations share no region as they are. With their neurons matched, nearly
#   all accuracy is kept half-way.

# %% [markdown]
# ## For discussion
#
# 1. With large turns the copies cluster by version. Is a region one of a task, of images, or of
#    something else? Which experiment would tell?
# 2. Updates of nothing in common still have a cosine of 0.14. Where does it come from, and what is a
#    fair level of chance?
# 3. The paper finds the inside better than the edge, this page does not, unless the copies overfit.
#    Can both be right?
# 4. Who publishes fine-tuned weights publishes what they were tuned on, as exercise 3.2 reads it.
#    Whom does it concern?
# 5. After matching, two networks of different starts share a region. Is a region a matter of the
#    weights or of the function?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. Of whatever changes the gradients most. Cross both: the same images with permuted labels (new
#    task, old images), and new images with the old labels; then compare the two cosines. The page's
#    two shifts are two points of that experiment.
# 2. All copies leave the same base with the same optimiser, and first do what every task asks for
#    (here, to classify instead of to fill in pixels). Random directions, whose cosine is near
#    $1/\sqrt{8320}$, are too easy a control; updates on permuted labels or on another modality are
#    a fairer one.
# 3. Yes. Averages undo what copies got wrong independently: much where they overfit (few examples, a
#    large model, as in the paper), little where they do not. One reports how far the training went.
# 4. Those whose data are private; those who check a licence; those who want to know whether a model
#    was tuned on the test set. Hiding it costs something: noise on the weights, mixing with others.
# 5. As trained, of the weights: neurons in another order are far away and the same function. Modulo
#    such symmetries it is nearer to the function, but two networks of one function need not be
#    connected then either, and the barrier that is left here is not zero.
#
# **Where students go wrong.** They compare weights and not updates, so that all cosines are near 1
# (exercise 3.1 says so); they let the longest update win (3.2); they match neurons one by one, or
# forget that the next layer's inputs move along (3.3 is one layer only); they take the best of many
# places on one base for a finding, which the check of 3.5 undoes with other bases and images; they
# call a cosine of 0.2 small.
#
# **How long it takes.** Data and fine-tuning 10 minutes, directions and clusters 10, the region 10,
# centroid and matching 5; the exercises as they say, 3.4 as a contest, 3.5 in pairs. In a lesson of
# 45 minutes: the page as far as the clusters, then exercises 3.2 and 3.5.
#
# </details>

# %% [markdown]
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
#
# **Next:** [04, stochastic weight averaging](04_swa.ipynb).
