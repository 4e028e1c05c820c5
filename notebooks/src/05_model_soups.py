# %% [markdown]
# # 05. Model soups
#
# **By the end you will have fine-tuned one small network twelve times with other hyper-parameters, for
# each of twenty seeds, and shown that the average of the twelve is better than the best of them:** by
# less than a point on images like those it was tuned on, by about two points on images that were
# turned, blurred or covered; at the cost of one network. You will also have seen it fail, with learning
# rates that are too high, and found out what the greedy recipe is good for.
#
# | | |
# |---|---|
# | **You will be able to** | cook uniform, greedy and learned soups; keep what chooses apart from what tests; tell when fine-tuned networks can be averaged; add and take away skills with task vectors; merge files that do not fit into memory |
# | **You should know** | [tutorial 04](04_swa.ipynb), and of [tutorial 03](03_knowledge_regions.ipynb) what a region is; paired comparisons |
# | **Time to read** | 105 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none |

# %% tags=["setup"]
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

from wskit import averaging, checkpoints, course, data, exercises, geometry, landscape, plots, soups
from wskit.widgets import SoupKitchen

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
torch.set_default_dtype(torch.float64)  # every processor then comes to the same numbers
N_SEEDS, N_FEW, FIRST = 20, 10, 200  # the size knobs, and the first seed

# %% [markdown]
# ## The question
#
# One fine-tunes a network many times, with other hyper-parameters, keeps the one that is best on held-out
# data, and throws the others away. Wortsman et al. (2022) average the weights of all $k$ instead, a model
# soup:
#
# $$ \bar w = \frac{1}{k} \sum_{i=1}^{k} w_i . $$
#
# "Without incurring any additional inference or memory costs", accuracy rises, also under distribution
# shift. An ensemble of all would be as good, but costs as many networks. Is that so here?

# %% [markdown]
# ## One data set in four parts
#
# 700 of scikit-learn's digits to pre-train with, 300 others to fine-tune with, 300 held out, which may
# choose, and 497 to test, as they are and in six shifted versions.
#
# Each seed splits them anew. The seeds start at 200: all settings were chosen on other ones.

# %%
digits = data.load_dataset("digits", seed=0)
X = torch.cat([digits.train_x, digits.validation_x, digits.test_x]).double()
Y = torch.cat([digits.train_y, digits.validation_y, digits.test_y])
orders = [np.random.default_rng(FIRST + i).permutation(1797) for i in range(N_SEEDS)]
pre, tune, held_out, test = np.split(np.stack(orders), [700, 1000, 1300], axis=1)


# %%
def warp(x, angle, size=1.0, right=0.0, down=0.0):  # each image by its own amounts
    c, s = size * angle.cos(), size * angle.sin()
    rows = torch.stack([c, -s, right / 4 + 0 * c, s, c, down / 4 + 0 * c], -1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(rows, [len(rows), 1, 8, 8], align_corners=False)
    return nn.functional.grid_sample(x.view(-1, 1, 8, 8), grid, align_corners=False).view_as(x)


def augment(x, draw, turn, zoom, move, contrast, noise):  # each model's images by up to so much
    u = 2 * torch.rand(4, *x.shape[:2], generator=draw) - 1
    x = warp(x, turn.deg2rad() * u[0], 1 + zoom * u[1], move * u[2], move * u[3])
    flat, level = torch.rand(2, *x.shape[:2], 1, 1, 1, generator=draw)
    contrast, noise = contrast[..., None, None, None] * flat, noise[..., None, None, None]
    return x + contrast * (level - x) + noise * torch.randn(x.shape, generator=draw)


# %%
def shifted(x, seed):
    draw = torch.Generator().manual_seed(seed)
    side = 2.0 * torch.randint(2, (len(x),), generator=draw) - 1
    row, column = (torch.arange(8) - torch.randint(6, (2, len(x), 1), generator=draw)) // 3 == 0
    found = {"turned": warp(x, side * np.deg2rad(25))}
    found |= {"noise": x + 0.3 * torch.randn(x.shape, generator=draw)}
    found |= {"blur": nn.functional.avg_pool2d(x, 3, 1, 1)}
    found |= {"moved": torch.where(side.view(-1, 1, 1, 1) > 0, x.roll(1, -1), x.roll(-1, -2))}
    found |= {"covered": x * ~(row[:, None, :, None] & column[:, None, None])}
    return found | {"contrast": 0.4 * x + 0.3}


kinds = [shifted(X[test[i]], FIRST + i) for i in range(N_SEEDS)]
apart = [(X[h], Y[h], X[t]) for h, t in zip(held_out, test, strict=True)]

# %%
fig, axs = plt.subplots(1, 7, figsize=(9, 1.7), subplot_kw={"xticks": [], "yticks": []})
for ax, (name, x) in zip(axs, ({"clean": X[test[0]]} | kinds[0]).items(), strict=True):
    ax.set_title(name)
    ax.imshow(x[0, 0], cmap="gray_r", vmin=0, vmax=1)
print("A test image, and its six shifted versions:", *kinds[0])

# %% [markdown]
# ## A base, and twelve fine-tunes
#
# - The **base** is pre-trained under broad changes of the images, for 60 epochs.
# - A **recipe** of fine-tuning is drawn at random: learning rate from 0.03 to 0.12, weight decay, epochs,
#   and how much the images are changed. Twelve for each seed.
# - Fine-tuning sees mild changes of the digits; the six kinds of shifted test images are harder than
#   that, or of another sort.
#
# The network has one hidden layer of 128. Many of them are trained at once, their weights stacked, by SGD
# with momentum; `recipes` has a row for each network.


# %%
def logits(w, x):
    h = torch.baddbmm(w["1.bias"][:, None], x.flatten(2), w["1.weight"].mT).relu()
    return torch.baddbmm(w["3.bias"][:, None], h, w["3.weight"].mT)


# %%
def train(weights, x, y, recipes, seed):
    draw, each = torch.Generator().manual_seed(seed), torch.arange(len(y))[:, None]
    columns = torch.tensor(recipes.to_numpy(), dtype=X.dtype).mT[..., None]
    rate, decay, epochs, *amounts = columns
    w = {name: W.clone().requires_grad_() for name, W in weights.items()}
    speed = {name: torch.zeros_like(W).flatten(1) for name, W in w.items()}
    for step in range(int(epochs.max() * y.shape[1] / 32)):
        batch = torch.randint(y.shape[1], (len(y), 32), generator=draw)
        out = logits(w, augment(x[each, batch], draw, *amounts))
        loss = nn.functional.cross_entropy(out.mT, y[each, batch], reduction="sum") / 32
        running = rate * (step < (epochs * y.shape[1] / 32).floor())  # 0 for who is done
        for name, grad in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
            speed[name].mul_(0.9).add_(grad.flatten(1) + decay * w[name].data.flatten(1))
            w[name].data.flatten(1).sub_(running * speed[name])
    return {name: W.detach() for name, W in w.items()}


# %%
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def pretrain(seed, n):
    draw, recipe = torch.Generator().manual_seed(seed), {"rate": 0.05, "decay": 5e-4, "epochs": 60}
    recipe |= {"turn": 40, "zoom": 0.15, "move": 1, "contrast": 0.7, "noise": 0.1}
    start = {}
    for name, W in mlp().state_dict().items():
        scale = (2 / W.shape[-1]) ** 0.5 if W.ndim > 1 else 0.0
        start[name] = scale * torch.randn(n, *W.shape, generator=draw)
    stack = train(start, X[pre[:n]], Y[pre[:n]], pd.DataFrame(recipe, range(n)), seed)
    return [{name: W[i] for name, W in stack.items()} for i in range(n)]


# %%
def draw_recipes(n, low=0.03, high=0.12):
    rng = np.random.default_rng(FIRST)
    found = {"rate": low * (high / low) ** rng.random(n), "decay": 1e-5 * 50 ** rng.random(n)}
    found |= {"epochs": rng.integers(15, 25, n), "turn": rng.choice([0, 10, 20], n)}
    found |= {"zoom": rng.choice([0, 0.1], n), "move": rng.choice([0, 0.5], n), "contrast": 0}
    return pd.DataFrame(found | {"noise": rng.choice([0, 0.2], n)})


def fine_tune(recipes, seed, x=X[tune], y=Y[tune], n=N_SEEDS):
    k = len(recipes) // n  # models a seed
    start = {a: torch.stack([b[a] for b in bases[:n] for _ in range(k)]) for a in bases[0]}
    x, y = (part[:n].repeat_interleave(k, 0) for part in (x, y))
    w, each = train(start, x, y, recipes, seed), range(k)
    return [{str(j + 1): {a: W[k * i + j] for a, W in w.items()} for j in each} for i in range(n)]


# %% [markdown]
# Every network is tested on the clean images and on the six kinds of shifted ones, whose mean is
# "shifted". `compare` sets models against one of them, seed by seed: the mean gain in points, the half
# width of its 95 % interval (Student's t), and the share of seeds in which it is won.


# %%
def measures(i):
    sets = {"clean": X[test[i]]} | kinds[i]
    made = {k: landscape.zoo_metrics(mlp, x, Y[test[i]]) for k, x in sets.items()}
    made["held_out"] = landscape.zoo_metrics(mlp, *apart[i][:2])
    each = landscape.split_metrics(**made)

    def evaluate(weights):
        found = dict(each(weights))
        for of in ("loss", "accuracy"):
            found[f"shifted_{of}"] = sum(found[f"{kind}_{of}"] for kind in kinds[i]) / 6
        return found

    return evaluate


# %%
BOTH = ["clean_accuracy", "shifted_accuracy"]


def over_seeds(models):
    found = [landscape.evaluate_models(evaluations[i], these) for i, these in enumerate(models)]
    return pd.concat(found, keys=range(len(found)), names=["seed", "model"]).reset_index()


def gains(table, of="clean_accuracy", to="best single"):
    right = 100 * table.pivot(index="seed", columns="model", values=of)[table.model.unique()]
    gain, t = right.sub(right[to], axis=0), stats.t.ppf(0.975, len(right) - 1)
    columns = {"%": right.mean(), "gain": gain.mean(), "+-": t * gain.sem()}
    return pd.DataFrame(columns | {"won": (gain > 0).mean()})


# %%
def compare(table, to="best single"):
    found = pd.concat({of: gains(table, of, to) for of in BOTH}, axis=1)
    return f"gain over {to}:\n{found.round(2).to_string()}"


# %%
bases, recipes = pretrain(FIRST, N_SEEDS), draw_recipes(12 * N_SEEDS)
pools, evaluations = fine_tune(recipes, FIRST), [measures(i) for i in range(N_SEEDS)]
singles, start = over_seeds(pools), over_seeds([{"base": base} for base in bases])
both = pd.concat([start, singles.assign(model="fine-tuned")]).groupby("model")[BOTH]
print((100 * both.agg(["mean", "std"])).round(1).to_string())

# %% [markdown]
# ### Predict first
#
# The base gets nine of ten clean digits right, a fine-tune 95 or 96 of a hundred. What about the average
# of all twelve? Will it be as good as the mean of them, as the best, or better than all? And on shifted
# images?
#
# ## Four recipes
#
# The **uniform soup** is the mean of all weights, by hand and by two helpers.
#
# What chooses must be apart from what tests. A score compares its images with those of the test, and
# refuses any that are in both.

# %%
pool, k = pools[0], len(pools[0])
by_hand = {name: sum(model[name] for model in pool.values()) / k for name in bases[0]}
made = {"average": averaging.average([*pool.values()]), "soup": soups.uniform_soup(pool).weights}
for name, weights in made.items():
    print(name, all(torch.allclose(W, by_hand[n], atol=1e-6) for n, W in weights.items()))

# %%
scores = [soups.held_out_score(mlp(), x, y, test_x=test_x) for x, y, test_x in apart]
try:
    soups.held_out_score(mlp(), X[test[0]], Y[test[0]], test_x=X[test[0]])
except ValueError as error:
    print(error)

# %% [markdown]
# ### The greedy soup
#
# The paper's Recipe 1: sort the ingredients by their held-out score. From the best one on, average each
# with those that were kept, and keep it if the score does not fall.
#
# In the figure below, grey is each ingredient by itself, blue what was kept. In this seed nothing is better
# on the held-out images than the best ingredient alone, and all that was added is a tie: one image of 300
# is a step of a third of a point.


# %%
def greedy_by_hand(models, score):
    kept, best = [], -np.inf
    for name in sorted(models, key=lambda name: -score(models[name])):
        found = score(averaging.average([models[k] for k in [*kept, name]]))
        if found >= best:
            kept, best = [*kept, name], found
    return kept


greedy = soups.greedy_soup(pool, scores[0])
print("equal to the helper:", greedy_by_hand(pool, scores[0]) == list(greedy.ingredients))

# %%
ax = plots.plot_greedy_path(greedy.history)
print(plots.describe(ax))

# %% [markdown]
# ### The learned soup, and the ensemble
#
# The **learned soup** finds coefficients by gradient descent: a softmax of $a$ and a temperature $\beta$
# that lower the held-out loss of
#
# $$ \beta\, f\Big(x;\ \sum_i \mathrm{softmax}(a)_i\, w_i\Big) . $$
#
# The rival of all soups, the **ensemble**, averages the logits of all networks.

# %%
a, beta = torch.zeros(k, requires_grad=True), torch.ones((), requires_grad=True)
stack = {name: torch.stack([model[name] for model in pool.values()]) for name in by_hand}
optimizer = torch.optim.Adam([a, beta], lr=0.05)
x, y, _ = apart[0]
for _ in range(100):
    mixed = {name: torch.tensordot(a.softmax(0), W, 1) for name, W in stack.items()}
    loss = nn.functional.cross_entropy(beta * torch.func.functional_call(mlp(), mixed, x), y)
    optimizer.zero_grad(), loss.backward(), optimizer.step()
learned = soups.learned_soup(pool, mlp(), x, y).coefficients
print("learned:", np.allclose(a.softmax(0).detach(), learned, atol=1e-3))


def ensemble_logits(models, x):
    each = [torch.func.functional_call(mlp(), weights, x) for weights in models.values()]
    return torch.stack(each).mean(0)


said = ensemble_logits(pool, x).argmax(1)
print(f"ensemble, held-out accuracy: {(said == y).double().mean():.3f}")

# %% [markdown]
# ## What is it worth?
#
# "Best single" is the ingredient with the best held-out score: what one would have kept.


# %%
def simple_soups(pool, score):
    own = [score(model) for model in pool.values()]
    greedy = soups.greedy_soup(pool, score, scores=own)
    made = {"best single": pool[list(pool)[np.argmax(own)]]}
    return made | {"uniform": soups.uniform_soup(pool).weights, "greedy": greedy.weights}


def all_soups(i):
    x, y, _ = apart[i]
    found = {"base": bases[i]} | simple_soups(pools[i], scores[i])
    for name, per in {"learned": "model", "learned by layer": "layer"}.items():
        found[name] = soups.learned_soup(pools[i], mlp(), x, y, per=per).weights
    return found


# %%
def ensemble(i):
    sets = {"clean": X[test[i]]} | kinds[i]
    said = {k: ensemble_logits(pools[i], x).argmax(1) for k, x in sets.items()}
    clean, *other = [(found == Y[test[i]]).double().mean().item() for found in said.values()]
    return {"model": "ensemble", "clean_accuracy": clean, "shifted_accuracy": np.mean(other)}


soup = [all_soups(i) for i in range(N_SEEDS)]
mean = singles.groupby("seed").mean(numeric_only=True)
rivals = pd.DataFrame([{"seed": i} | ensemble(i) for i in range(N_SEEDS)])
found = pd.concat([over_seeds(soup), mean.assign(model="mean single").reset_index(), rivals])
print(compare(found))

# %% [markdown]
# On clean images the uniform soup gains nearly a point, on shifted ones about two, there in 19 of 20
# seeds. Learned coefficients gain no more. A fine-tune picked at random ("mean single") is worse than the
# best, on clean images and under shift. Now the uniform soup against its rivals, and its gain for each kind of shift:

# %%
four = found[found.model.isin(["best single", "uniform", "greedy", "ensemble"])]
print(compare(four, to="uniform"))
each = {kind: gains(found, f"{kind}_accuracy").loc["uniform"] for kind in kinds[0]}
print("\ngain of uniform over best single:", pd.DataFrame(each).T.round(2).to_string(), sep="\n")

# %% [markdown]
# ### All seeds in one picture
#
# The four, and each ingredient; every seed is seen from the mean of its singles.

# %%
dots = pd.concat([singles.assign(model="ingredient"), four]).set_index(["seed", "model"])[BOTH]
dots = (100 * dots.sub(mean[BOTH], level="seed")).reset_index(names=["seed", "kind"])
ax = plots.plot_soup_scores(dots, x=BOTH[0], y=BOTH[1], ms=7)
ax.set(xlabel="clean accuracy, points over the mean single", ylabel="shifted accuracy, points")
print(plots.describe(ax))

# %% [markdown]
# At twelve times the cost, the ensemble is no better than the uniform soup on clean images, and a quarter
# of a point better under shift. And the greedy soup is **not** better than the uniform one. On clean
# images no difference shows; under shift
# it is worse, by about half a point. Where all ingredients are decent, leaving out any costs more than
# choosing gains. The mean gain is positive for each kind of shift, but not of one size: turned images and
# low contrast gain most, and for blurred, moved and covered ones the interval holds 0.

# %% [markdown]
# ## Why it works: one valley
#
# The first seed's base and the two fine-tunes that went the most different ways: the plane through the
# three, and the loss on the clean test images.
#
# All three are in one valley, with no rise between them, and its lowest place is at none of them.
# (Neyshabur et al. 2020 found this of networks that were fine-tuned from one start.)

# %%
angle = geometry.weight_distances([*pool.values()], bases[0]).angle()
a, b = (str(j + 1) for j in np.unravel_index(angle.argmax(), angle.shape))
plane = landscape.loss_plane(evaluations[0], bases[0], pool[a], pool[b], names=("base", a, b))
ax = plots.plot_loss_plane(plane, measure="clean_loss")
print(plots.describe(ax))

# %% [markdown]
# ### The more different, the better
#
# For all pairs of all seeds: how much better is the network half-way than the mean of the two, in points?
# By the angle between the two updates, in degrees:

# %%
rows, (first, second) = [], np.tril_indices(12, -1)
halves = (np.eye(12)[first] + np.eye(12)[second]) / 2
mixtures = np.concatenate([np.eye(12), halves])
for i in range(N_SEEDS):
    models = [*pools[i].values()]
    angle = np.rad2deg(geometry.weight_distances(models, bases[i]).angle())
    right = landscape.evaluate_mixtures(evaluations[i], models, mixtures)[BOTH]
    gain = 100 * (right.iloc[12:].reset_index(drop=True) - halves @ right.iloc[:12])
    rows.append(gain.assign(angle=angle[first, second], seed=i))
pairs = pd.concat(rows)
groups = pairs.groupby(pd.cut(pairs.angle, [0, 40, 50, 60, 90]), observed=True)[BOTH]
print(groups.agg(["mean", "std"]).round(2).to_string())
rank = pairs.groupby("seed")[["angle", *BOTH]].corr("spearman").angle.unstack()[BOTH]
print("rank correlation with the angle:", rank.agg(["mean", "std"]).round(2), sep="\n")

# %% [markdown]
# Half-way is better on average in every group, and the more so the larger the angle: the rank correlation
# is positive, more clearly under shift than on clean images. The more alike two copies are, the less they
# have to give to each other.

# %% [markdown]
# ## When it fails
#
# **Learning rates that are too high.** Now the rates go from 0.03 to 0.5, in ten seeds. **Another
# beginning.** Two bases from different initialisations, as they are, and with their neurons matched
# (tutorial 03). The barrier is the rise of the test loss above the straight line between the ends.

# %% tolerance=0.2
hot = fine_tune(draw_recipes(12 * N_FEW, high=0.5), FIRST, n=N_FEW)
high = over_seeds([simple_soups(*pair) for pair in zip(hot, scores, strict=False)])
print(compare(high))
others, rows = pretrain(FIRST + 1000, N_FEW), []
for i, (a, b) in enumerate(zip(bases, others, strict=False)):
    match = geometry.match_weights(b, a, geometry.sequential_symmetries(a), seed=0)
    ends = {k: (p[i]["1"], p[i]["2"]) for k, p in {"fine-tunes": pools, "high rates": hot}.items()}
    ends |= {"two bases": (a, b), "two bases, matched": (a, match.weights)}
    for name, pair in ends.items():
        path = landscape.loss_path(evaluations[i], *pair, alphas=np.linspace(0, 1, 7))
        right = 100 * path.measures["clean_accuracy"]
        rows.append([name, landscape.barrier(path), (right[0] + right[6]) / 2, right[3]])
table = pd.DataFrame(rows, columns=["pair", "barrier", "% at the ends", "% half-way"])
barriers = table.groupby("pair", sort=False).agg(["mean", "std"]).round(2)
print(barriers.to_string())

# %% [markdown]
# With high rates the best single network is as good as before, but the uniform soup loses many points on
# clean images, and twice as many under shift: some of the twelve have left the valley, and a mean takes
# all. It is here that the greedy soup shows what it is for. It leaves those out, and under shift is still
# better than the best single network.
#
# Between two fine-tunes there is no barrier at all; at high rates there is one in some seeds. Between two
# bases there is a high one, and half-way much is lost. Matched, none of it is. A soup needs a common
# start, or neurons that were brought into one order.

# %% [markdown]
# ## Task vectors: to add, and to take away
#
# What a fine-tune has moved from the base $w_0$ is its task vector, $w - w_0$. Ilharco et al. (2023) add
# those of several tasks, and subtract one to forget. Two skills that the base lacks: digits turned by 60
# degrees, and digits in a mirror.
#
# Their sum is scaled by a number that held-out images choose. TIES (Yadav et al. 2023) keeps the largest
# fifth of each vector, and lets signs vote.

# %%
plain = {"rate": 0.05, "decay": 1e-4, "epochs": 20}
plain |= dict.fromkeys(["turn", "zoom", "move", "contrast", "noise"], 0)
skills = {"turned": lambda x: warp(x, torch.full((len(x),), torch.pi / 3))}
skills["mirrored"] = lambda x: x.flip(-1)


def learn(x, y, **changes):
    recipe = pd.DataFrame(plain | changes, range(N_SEEDS))
    return [found["1"] for found in fine_tune(recipe, FIRST, x, y)]


def accuracy(models, **sets):
    made = landscape.split_metrics(**{k: landscape.zoo_metrics(mlp, *xy) for k, xy in sets.items()})
    return 100 * landscape.evaluate_models(made, models)[[f"{name}_accuracy" for name in sets]]


# %%
able = [learn(torch.stack([f(X[r]) for r in tune]), Y[tune]) for f in skills.values()]
rows, sets = [], {"plain": lambda x: x} | skills
for i, b in enumerate(bases):
    vectors = [averaging.task_vector(models[i], b) for models in able]
    sums = {s: averaging.add_task_vectors(b, vectors, s) for s in (0.3, 0.5, 0.7, 1.0)}
    right = accuracy(sums, **{k: (f(X[held_out[i]]), Y[held_out[i]]) for k, f in skills.items()})
    tested = {"base": b} | {k: models[i] for k, models in zip(skills, able, strict=True)}
    tested["sum"] = sums[right.mean(axis=1).idxmax()]
    tested["TIES"] = averaging.merge_ties([models[i] for models in able], b)
    rows.append(accuracy(tested, **{k: (f(X[test[i]]), Y[test[i]]) for k, f in sets.items()}))
print(pd.concat(rows).groupby(level=0, sort=False).agg(["mean", "std"]).round(1).to_string())

# %% [markdown]
# Each fine-tune has one skill only. The sum has both, at some loss to each; of these TIES loses less. But
# none of them still reads plain digits well: these were in neither task, and nobody protects them. To
# have them too, one would have to add them as a third task.

# %% [markdown]
# ### To forget
#
# A network fine-tuned on images of *one* digit goes further in the direction of that
# digit; the opposite direction should lead away from it. Each seed forgets another digit.
#
# How far to go is chosen as in the paper: the largest of the steps 1 to 8 that leaves 95 % of the held-out accuracy on
# the other digits. The control is a random step of the same length.


# %%
def about(i, rows):  # the digit that is to be forgotten, and the others
    x, y = X[rows[i]], Y[rows[i]]
    return {"digit": (x[y == i % 10], y[y == i % 10]), "others": (x[y != i % 10], y[y != i % 10])}


# %%
seen = np.concatenate([pre, tune], axis=1)
images = np.stack([rows[Y[rows] == i % 10][:80] for i, rows in enumerate(seen)])
only, rows = learn(X[images], Y[images], rate=0.003, epochs=5), []
for i, b in enumerate(bases):
    vector = averaging.task_vector(only[i], b)
    less = {s: averaging.add_task_vectors(b, [vector], -s) for s in range(9)}
    right = accuracy(less, **about(i, held_out)).others_accuracy
    chosen = less[right.index[right >= 0.95 * right[0]].max()]
    length = geometry.weight_distances([chosen], b).update_norms()[0]
    away = landscape.random_direction(b, seed=i, normalize="unit")
    tested = {"base": b, "tuned on it": only[i], "negated": chosen}
    tested["random"] = averaging.add_task_vectors(b, [away], length)
    rows.append(accuracy(tested, **about(i, test)))
print(pd.concat(rows).groupby(level=0, sort=False).agg(["mean", "std"]).round(1).to_string())

# %% [markdown]
# On average the digit is mostly forgotten, the others nearly all kept; a random step of the same length
# does nothing. But look at the spread: some digits are forgotten to the last, others not at all.

# %% [markdown]
# ## Play with it
#
# The first seed's twelve. Tick ingredients, give them shares, have it cooked greedily, step by step. **A
# goal:** find a soup of three with a lower held-out loss than that of all twelve. Then see what it is
# worth on the shifted images.

# %%
x, y = torch.cat([*kinds[0].values()]), Y[test[0]]
sets = {"held_out": apart[0][:2], "clean": (X[test[0]], y), "shifted": (x, y.repeat(6))}
made = {name: landscape.zoo_metrics(mlp, *xy) for name, xy in sets.items()}
kitchen = SoupKitchen(pool, landscape.split_metrics(**made), base=bases[0])
kitchen

# %% [markdown]
# ## What would have fooled us
#
# Controls, in ten seeds. **By the test:** the test images choose. **Shuffled:** the greedy recipe
# chooses by shuffled labels. **Shortened:** the best single, as near to the base as the uniform soup.
# **One recipe:** twelve fine-tunes that differ in their seed alone.


# %%
def controls(i):
    (x, y, _), b = apart[i], bases[i]
    made = {name: soup[i][name] for name in ("best single", "uniform", "greedy")}
    long, short, _ = geometry.weight_distances([*made.values()], b).update_norms()
    t = short / long
    made["single, shortened"] = averaging.average([b, made["best single"]], [1 - t, t])
    by_test = simple_soups(pools[i], soups.held_out_score(mlp(), X[test[i]], Y[test[i]]))
    made |= {
        "single, by the test": by_test["best single"],
        "greedy, by the test": by_test["greedy"],
    }
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(i))
    no_score = soups.held_out_score(mlp(), x, y[order])
    for name, these in {"greedy": pools[i], "high": hot[i]}.items():
        made[f"{name}, shuffled"] = simple_soups(these, no_score)["greedy"]
    return made | {"one recipe, uniform": soups.uniform_soup(same[i]).weights}


# %%
own = [np.argmax([score(w) for w in p.values()]) for p, score in zip(pools, scores, strict=True)]
same = recipes.iloc[[12 * i + own[i] for i in range(N_FEW) for _ in range(12)]]
same = fine_tune(same, FIRST + 1, n=N_FEW)
control = over_seeds([controls(i) for i in range(N_FEW)])
print(compare(control))

# %% [markdown]
# - Choosing by the test images flatters: on clean images the best single network, and the greedy soup,
#   seem nearly a point better than they are. That is as much as the whole gain of a soup.
# - By shuffled labels no gain of the greedy soup can be shown, and with high rates it is a disaster: the
#   score is what saves it there.
# - It is not that the soup is nearer to the base: the shortened network gains nothing.
# - Twelve seeds of one recipe gain something too, about half as much as twelve recipes do.
#
# ## Files larger than memory
#
# Real ingredients are files, often in several parts. A lazy average is computed when it is written, block
# by block, so that neither the ingredients nor the soup need fit into memory. The same call merges twelve
# small folders here, or twelve large ones.

# %%
folder, shards = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), {"shard_size": 20_000}
for name, model in pool.items():
    checkpoints.save_weights(model, f"{folder.name}/{name}", **shards)
files = [checkpoints.open_checkpoint(f"{folder.name}/{name}") for name in pool]

# %%
out = checkpoints.save_weights(averaging.average(files, lazy=True), f"{folder.name}/soup", **shards)
print(*sorted(path.name for path in out.glob("model*")))
back = checkpoints.open_checkpoint(out)
print("equal:", all(torch.allclose(W, by_hand[name], atol=1e-6) for name, W in back.items()))
folder.cleanup()

# %% [markdown]
# ## The paper's claims, and ours
#
# The paper's best-known figures are of CLIP ViT-B/32 on ImageNet: 72 fine-tunes, accuracy in percent on the
# test set and on the mean of five shifted ones: 80.38 and 47.83 for the best single model, 79.97 and 51.45
# for the uniform soup, 81.03 and 50.75 for the greedy one, 80.89 and 51.07 for the learned one, 81.37 and
# 50.87 for that by layer, 81.19 and 50.77 for the ensemble. Ours are gains in points, with the half
# width of their 95 % interval; behind a rank correlation or a barrier, ± is one standard deviation.
#
# Under shift our pattern is the paper's: all soups are above the best single model, and the uniform soup
# is the best of them. On clean images it is not. There the paper's uniform soup loses to its best single
# model, and the greedy one wins, as it does here only once the rates are too high. The paper's 72 models
# came from a random search, too; those with high learning rates, it says, are rejected.


# %% tags=["claims", "hide-input"] tolerance=0.2
# The paper's claims beside ours (click to open the code)
def gain(of, name, table=found, **options):
    row = gains(table, f"{of}_accuracy", **options).loc[name]
    return f"{row.gain:+.2f} ± {row['+-']:.2f}"


rise, order = barriers.barrier, rank.agg(["mean", "std"])
course.claims(
    (
        "under shift a soup beats the best single model (uniform 51.45 % right, single 47.83 %)",
        f"{gain('shifted', 'uniform')} points (95 % interval), of six shifts of our own",
        N_SEEDS,
        f"rates that are too high: {gain('shifted', 'uniform', high)}, {N_FEW} seeds",
    ),
    (
        "on images as in tuning the greedy soup does too (81.03 %, single 80.38 %)",
        f"{gain('clean', 'greedy')} points",
        N_SEEDS,
        f"under shift it is below the uniform soup: {gain('shifted', 'greedy', to='uniform')}",
    ),
    (
        "and there the uniform soup does not (79.97 %)",
        f"only if rates are too high: {gain('clean', 'uniform', high)} points",
        N_FEW,
        f"with decent rates it does: {gain('clean', 'uniform')}, {N_SEEDS} seeds",
    ),
    (
        "a soup is as good as the ensemble, at the cost of one network",
        f"ensemble over uniform: {gain('shifted', 'ensemble', to='uniform')} points under shift",
        N_SEEDS,
        f"clean images: {gain('clean', 'ensemble', to='uniform')}",
    ),
    (
        "fine-tunes of one base lie in one valley; the larger the angle, the larger the gain",
        f"barrier {rise['mean']['fine-tunes']:.2f} ± {rise['std']['fine-tunes']:.2f} nats, rank "
        f"correlation under shift {order[BOTH[1]]['mean']:.2f} ± {order[BOTH[1]]['std']:.2f}",
        f"{N_FEW} and {N_SEEDS}",
        f"rates that are too high: barrier {rise['mean']['high rates']:.2f} ± "
        f"{rise['std']['high rates']:.2f}",
    ),
)

# %% [markdown]
# ## Limits
#
# - One small network, one data set of small images, shifts that we made up ourselves.
# - The recipes were found by a search, on other seeds, for a setting in which averaging helps.
#   There are many in which it does not.
# - 300 held-out images are few. With more, the greedy and the learned soup may do better.
# - The greedy order and the choice of the best hang on ties; another processor may choose otherwise.
# - High rates and task vectors were tried in one setting each.
#
# ## Exercises
#
# Each has a check that says what is wrong and never the answer, a hint, and a solution.
#
# ### Exercise 5.1 ★ (10 minutes)
#
# Two tasks were added above, and plain digits were lost. Add them as a third. Write
# `add_tasks(base, models, scale)`: the base, and `scale` times the sum of what each of the models has
# learned since. Whole numbers (counters) are the base's. Then predict: with a third task vector, that of
# one of the twelve fine-tunes, what happens to the other two skills?


# %% tags=["exercise"]
# Exercise 5.1
def add_tasks(base, models, scale):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_add_tasks(add_tasks))

# %% [markdown]
# <details><summary>Hint 5.1</summary>
#
# What has one model learned? A difference of two. With one model and a scale of 1, the result is that
# model again.
#
# </details>
#
# <details><summary>Expected output 5.1</summary>
#
# ```text
#        plain_accuracy  turned_accuracy  mirrored_accuracy
# two              77.0             71.9               71.8
# three            83.4             65.5               68.2
# Passed: every task counts, and the base counts once.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 5.1 (click to open)
def add_tasks(base, models, scale):
    vectors = [averaging.task_vector(model, base) for model in models]
    return averaging.add_task_vectors(base, vectors, scale)


rows, three = [], {"plain": lambda x: x} | skills
for i, (b, plain_one, *others) in enumerate(zip(bases, pools, *able, strict=True)):
    added = {"two": others, "three": [*others, plain_one["1"]]}
    added = {name: add_tasks(b, models, 0.3) for name, models in added.items()}
    rows.append(accuracy(added, **{k: (f(X[test[i]]), Y[test[i]]) for k, f in three.items()}))
print(pd.concat(rows).groupby(level=0, sort=False).mean().round(1).to_string())
print(exercises.check_add_tasks(add_tasks))

# %% [markdown]
# ### Exercise 5.2 ★★ (15 minutes)
#
# What does one more ingredient bring? Take the valley for a bowl, in which the loss is $h/2$ times the
# squared distance from the bottom. The ingredients scatter around some place in it, independently, and
# their distance from it is $s$ (the root of the mean square). Write `expected_gain(k, s, h)`: by how much
# the loss of the mean of $k$ ingredients is lower, on average, than the mean of their losses. Then
# predict: which share of the gain of twelve do two have?


# %% tags=["exercise"]
# Exercise 5.2
def expected_gain(k, s, h):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_expected_gain(expected_gain))

# %% [markdown]
# <details><summary>Hint 5.2</summary>
#
# Where the bottom is makes no difference: put it where the ingredients scatter around. Then how large is
# the mean squared distance of one of them, and how large that of the mean of $k$?
#
# </details>
#
# <details><summary>Expected output 5.2</summary>
#
# ```text
#                1     2     3     4     6     8    12
# as in a bowl  0.0  0.55  0.73  0.82  0.91  0.95  1.0
# measured      0.0  0.58  0.75  0.83  0.92  0.96  1.0
# Passed: that is how much lower the loss of the mean is.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 5.2 (click to open)
def expected_gain(k, s, h):
    return h * s**2 * (1 - 1 / k) / 2


sizes, loss = [1, 2, 3, 4, 6, 8, 12], np.zeros(7)
mixes = np.array([np.roll(np.arange(12) < k, t) / k for k in sizes for t in range(12)])
for (x, y, _), these in zip(apart, pools, strict=True):
    held = landscape.zoo_metrics(mlp, x, y)
    mixed = landscape.evaluate_mixtures(held, [*these.values()], mixes)
    loss += mixed.loss.to_numpy().reshape(7, 12).mean(1)
gain = {"as in a bowl": [expected_gain(k, 1, 1) for k in sizes], "measured": loss[0] - loss}
table = pd.DataFrame(gain, sizes)
print((table / table.loc[12]).T.round(2).to_string())
print(exercises.check_expected_gain(expected_gain))

# %% [markdown]
# ### Exercise 5.3 ★★ (15 minutes)
#
# Recipe 1 for files: `names` are sorted, the best first; `read(name)` reads a model, and `score(weights)`
# scores one. Return the weights of the greedy soup. Read each model once, and have no more than two in
# memory beside the soup: the list of what was kept must not hold weights.


# %% tags=["exercise"]
# Exercise 5.3
def greedy_from_files(names, read, score):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_thrifty_greedy(greedy_from_files))

# %% [markdown]
# <details><summary>Hint 5.3</summary>
#
# The mean of $n$ models and one more is a point on the line between the two. At which place?
#
# </details>
#
# <details><summary>Expected output 5.3</summary>
#
# ```text
# Passed: each model was read once, and none was kept.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 5.3 (click to open)
def greedy_from_files(names, read, score):
    soup, n, reached = {}, 0, -np.inf
    for name in names:
        trial = read(name)
        if n:
            trial = averaging.average([soup, trial], [n / (n + 1), 1 / (n + 1)])
        if (found := score(trial)) >= reached:
            soup, n, reached = trial, n + 1, found
    return soup


print(exercises.check_thrifty_greedy(greedy_from_files))

# %% [markdown]
# ### Exercise 5.4 ★★★ (open-ended, 20 minutes)
#
# You may serve three ingredients at most. Cook with the first seed's twelve in the `SoupKitchen` above,
# and with its twelve of high rates in the one below: which three are good on held-out images, and are the
# same three good on shifted ones? Then write it down: `choose(pool, score)` is given twelve by name and
# their held-out score, and returns one to three names. It is asked for the nineteen *other* pools of this page and for nine with high rates; what counts is
# the accuracy on all test images, clean and shifted, which it never sees.
#
# **Goal:** better than the best single network on average, and in three of four pools. (Above 82 %, you
# are better than greedy soups of any size.)

# %%
kitchen = SoupKitchen(hot[0], landscape.split_metrics(**made), base=bases[0])
kitchen


# %% tags=["exercise"]
# Exercise 5.4
def choose(pool, score):
    raise NotImplementedError("write me")


# %% tags=["check"]
every = [(torch.cat([X[t], *kinds[i].values()]), Y[t].repeat(7)) for i, t in enumerate(test)]
tests = [soups.held_out_score(mlp(), *xy) for xy in every]
contest = pools[1:] + hot[1:], scores[1:] + scores[1:N_FEW], tests[1:] + tests[1:N_FEW]
print(exercises.check_choose(choose, *contest))

# %% [markdown]
# <details><summary>Hint 5.4</summary>
#
# There are 298 soups of at most three. If you try all of them on 300 images, what does the best score
# mean? Few comparisons may be worth more than many.
#
# </details>
#
# <details><summary>Expected output 5.4</summary>
#
# ```text
# all 41 of six tried: 81.8 % right, where the best single models have 80.7 %; it is better in a share of 0.71 of 28 pools.
# Passed: 82.0 % right, where the best single models have 80.7 %; it is better in a share of 0.75 of 28 pools.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 5.4 (click to open)
def choose(pool, score):
    return sorted(pool, key=lambda name: -score(pool[name]))[:3]


def try_all(pool, score):  # what not to do, here with the best six only, for time
    from itertools import combinations

    best = sorted(pool, key=lambda name: -score(pool[name]))[:6]
    each = [names for n in (1, 2, 3) for names in combinations(best, n)]
    return max(each, key=lambda names: score(averaging.average([pool[k] for k in names])))


print("all 41 of six tried:", exercises.check_choose(try_all, *contest).message)
print(exercises.check_choose(choose, *contest))

# %% [markdown]
# ## Summary
#
# - The average of twelve fine-tunes of one base beats the best of them: a little on clean images, by
#   about two points on shifted ones. It is nearly as good as their ensemble, at the cost of one network.
# - It works because there is no barrier between them. The more their updates differ in direction, the
#   more is gained half-way.
# - With learning rates that are too high some leave the valley. Then the uniform soup fails, and the
#   greedy one still works.
# - Networks from different initialisations cannot be averaged until their neurons are matched.
# - Task vectors add skills and take most digits away. What is in no task may be lost on the way.
# - What chooses must not test.
#
# Where all ingredients are decent, the greedy soup is no better than the uniform one, and under shift
# worse. Most of a point is soon won by looking at the test images.

# %% [markdown]
# ## For discussion
#
# 1. Twelve trainings went into the soup, and one into a single model. What is a fair rival at the same
#    cost of training? And at the same cost of use?
# 2. How many held-out images would it take to tell the greedy soup from the uniform one? What else could
#    choose?
# 3. "Better under distribution shift": of six shifts that we made up. Which shift would change your mind,
#    and who should choose it?
# 4. You make a soup of forty fine-tunes from the internet. Whose model is it? What do you know about what
#    it has learned?
# 5. A digit was "forgotten" by going backwards along its task vector. Is it deleted? What would you show
#    to somebody who has asked for that?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. At the same cost of training: one network trained twelve times as long, or on twelve times as many
#    changed images, or SWA within one fine-tune; the page tried none of these. At the same cost of use:
#    the best single, or the ensemble distilled into one network. In practice the twelve exist already,
#    as the search for hyper-parameters has made them; then the soup is free.
# 2. The interval of their difference on clean images is about ± 0.2 points over 20 seeds, with 497 test
#    images each. One image of 300 is a third of a point. Let them compute: two networks that differ on
#    2 % of the images need thousands of images before a difference of 0.2 points shows. The held-out loss,
#    which moves with every image, tells more than the accuracy.
# 3. One that the recipes did not train for, and that nobody had looked at when they were chosen. The
#    settings of this page come from a search on other seeds, but on the same six shifts: a weakness that
#    a good group will find by itself.
# 4. Licences, private data, hidden triggers: what one ingredient was taught on purpose, the soup may still
#    do in part. Averages of weights are hard to trace, and nobody has evaluated the mixture. Ask who
#    would notice, and how.
# 5. The accuracy on that digit has fallen, on average, and not at all for some digits; features of it are
#    still there, and a few images may bring it back (they can try: fine-tune the negated network on ten
#    images of the digit). Forgetting has to be defined by an attack that fails.
#
# Where students go wrong: they choose on the test images and do not see it; they average networks from
# different starts; they compare the soup with the mean of its ingredients, not with the best; in 5.1 they
# add models and not differences; in 5.2 they give what remains instead of the gain; in 5.3 each new model
# gets half; in 5.4 they try everything, which wins on held-out images and not on others. About 45 minutes
# for the page, 10 for 5.1, 15 each for 5.2 and 5.3, 20 for 5.4, 15 for a discussion of two questions.
#
# </details>

# %% [markdown]
# ## References
#
# 1. M. Wortsman, G. Ilharco, S. Y. Gadre, R. Roelofs, R. Gontijo-Lopes, A. S. Morcos, H. Namkoong,
#    A. Farhadi, Y. Carmon, S. Kornblith and L. Schmidt, *Model soups: averaging weights of multiple
#    fine-tuned models improves accuracy without increasing inference time*, ICML 2022,
#    arXiv:2203.05482.
# 2. G. Ilharco, M. T. Ribeiro, M. Wortsman, S. Gururangan, L. Schmidt, H. Hajishirzi and A. Farhadi,
#    *Editing models with task arithmetic*, ICLR 2023, arXiv:2212.04089.
# 3. P. Yadav, D. Tam, L. Choshen, C. Raffel and M. Bansal, *TIES-Merging: resolving interference when
#    merging models*, NeurIPS 2023, arXiv:2306.01708.
# 4. S. K. Ainsworth, J. Hayase and S. Srinivasa, *Git Re-Basin: merging models modulo permutation
#    symmetries*, ICLR 2023, arXiv:2209.04836.
# 5. B. Neyshabur, H. Sedghi and C. Zhang, *What is being transferred in transfer learning?*, NeurIPS
#    2020, arXiv:2008.11687.
#
# **Next:** [06, your own models](06_your_own_model.ipynb); `wskit soup` merges files from the command line.
