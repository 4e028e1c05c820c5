# %% [markdown]
# # 02. Accuracy, read off the weights
#
# **By the end you will have trained a few hundred small networks and a model that looks at the
# weights of one it has never seen and says how accurate it is,** with a mean error below ten points
# and without a single test image.
#
# You will also have found out where this fails: among good networks, on another data set, and for
# the question of whether a network generalises.
#
# | | |
# |---|---|
# | **You will be able to** | train many networks at once; sum up weights in features; fit and score a predictor without leaks; measure the weight correlation of Jin et al.; set a predictor right for another data set; name the controls that such a claim needs |
# | **You should know** | linear regression, cross-validation; convolutional networks; [tutorial 00](00_start_here.ipynb) |
# | **Time to read** | 105 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none; the trained networks are kept in the cache (`wskit.data.cache_folder()`) |

# %% tags=["setup"]
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn import linear_model, pipeline, preprocessing

from wskit import course, data, exercises, features, plots, predictors, widgets, zoo

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # these networks are small: a second thread would cost time
N_MODELS, N_UPDATES = 256, 120  # the size knobs: more models, better predictors

# %% [markdown]
# ## The question
#
# Unterthiner et al. (2020) trained 120,000 small convolutional networks with random
# hyper-parameters and showed that their test accuracy can be predicted from simple statistics of
# their weights: mean, variance and quantiles of each layer. If that is so, the weights hold a
# record of how well training went. How much of it is there, and which part of it is trivial?

# %% [markdown]
# ## A zoo
#
# The networks are those of the paper: three convolutions of 16 filters, the mean over all places,
# one dense layer; 4,970 weights. The data are scikit-learn's digits. Optimiser, learning rate,
# weight decay, dropout, activation, initialisation and the part of the training images that a
# network gets to see are drawn at random; the number of updates is the same for all.

# %%
digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.4, seed=0)
# In float64, every processor comes to the same numbers.
digits = replace(digits, train_x=digits.train_x.double(), test_x=digits.test_x.double())
table = zoo.sample_hyperparameters(N_MODELS, rng=0)
# Adam and RMSprop at higher rates are chaotic: what comes out hangs on the processor.
highest = np.where(table.optimizer == "sgd", 0.05, 0.01)
table["learning_rate"] = table.learning_rate.clip(upper=highest)
table["epochs"] = N_UPDATES * 64 / (len(digits.train_x) * table.train_fraction)
print(digits)
print(table.head(4).round(5).to_string())

# %% [markdown]
# To train them one after the other takes minutes. They are trained together: the kernels of many
# networks, put one after the other, are one *grouped* convolution, whose groups do not see each
# other.

# %%
draw = torch.Generator().manual_seed(0)
x = torch.randn(5, 1, 8, 8, generator=draw)
kernels = torch.randn(3, 16, 1, 3, 3, generator=draw)  # of three networks
one_by_one = torch.cat([torch.conv2d(x, kernel) for kernel in kernels], dim=1)
together = torch.conv2d(x.repeat(1, 3, 1, 1), kernels.flatten(0, 1), groups=3)
print("equal:", torch.allclose(one_by_one, together, atol=1e-5))

# %% [markdown]
# `train_zoo` does this for whole blocks of networks. Each has a seed of its own and comes out as
# if it had been trained alone. `keep_epochs=(0,)` keeps the untrained state as well.

# %%
cnn, folder = zoo.SmallCNN(), data.cache_folder() / "zoo-digits"
states = zoo.train_zoo(cnn, digits, table, keep_epochs=(0,), folder=folder)
states = states.select(states.records.groupby("run").status.transform("last") == "trained")
before = states.select(states.records.epoch == 0)
trained = states.select(states.records.epoch > 0)
y, runs = trained.records.test_accuracy.to_numpy(), trained.records.run.to_numpy()
print("test accuracy, quantiles 5, 25, 50, 75, 95:", np.quantile(y, [0.05, 0.25, 0.5, 0.75, 0.95]))

# %% [markdown]
# ### Good ones and bad ones
#
# A few hundred networks, their hyper-parameters drawn at random. Some end as good networks, some never leave
# the level of chance; this is meant: a predictor needs both.

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
sns.histplot(y=y, bins=20, color=plots.PALETTE["data"], ax=axs[0])
look = {"hue": "optimizer", "alpha": 0.7}
sns.scatterplot(trained.records, x="learning_rate", y="test_accuracy", **look, ax=axs[1])
axs[0].set(xlabel="networks", ylabel="test accuracy")
axs[1].set(xscale="log", xlabel="learning rate")
sns.move_legend(axs[1], "upper left", bbox_to_anchor=(1, 1), title="optimiser")
print(plots.describe(fig))

# %% [markdown]
# **Predict first.** Take the weights of one of these networks as a bag of numbers, and forget which
# is where. Can its accuracy be read off the mean, the spread and the quantiles of each layer?

# %% [markdown]
# ## From weights to features
#
# The paper's features of a tensor $w$ of $n$ entries are its mean, its variance and its quantiles at
# 0, 25, 50, 75 and 100 %; with kernel and bias of four layers they are 56. They do not change when
# the neurons of a layer are permuted, a symmetry that tutorial 00 showed.

# %%
w = trained.weights["conv2.weight"][0].double().numpy()
by_hand = [w.mean(), w.var(), *np.quantile(w, [0, 0.25, 0.5, 0.75, 1])]
statistics = features.weight_statistics(trained.weights).round(6)  # dead neurons leave 1e-17
print(statistics.shape, *statistics.columns[14:21])
helper = statistics.filter(regex=r"^conv2\.weight").iloc[0]
print("equal to the helper:", np.allclose(helper, by_hand, atol=1e-6))

# %% [markdown]
# ## From features to accuracy
#
# An accuracy $a$ is between 0 and 1, so that a linear model is fitted to its logit: with features
# $x$, the weights $\beta$ minimise $\sum_i (\ln \frac{a_i}{1 - a_i} - \beta^\top x_i - b)^2 +
# \lVert \beta \rVert^2$.


# %%
def logit_linear(X, a, clip=1e-3):
    """Ridge regression on the logits; returns the prediction as a function of new rows."""
    a, centre = np.clip(a, clip, 1 - clip), X.mean(axis=0)
    logit, Z = np.log(a / (1 - a)), X - centre
    beta = np.linalg.solve(Z.T @ Z + np.eye(Z.shape[1]), Z.T @ (logit - logit.mean()))
    return lambda new: 1 / (1 + np.exp(-((new - centre) @ beta + logit.mean())))


X = statistics.to_numpy()
helper = predictors.logit_linear(alpha=1.0, clip=1e-3).fit(X, y).predict(X)
print("equal to the helper:", np.allclose(logit_linear(X, y)(X), helper))

# %% [markdown]
# Trees are the paper's better choice: gradient boosting, here scikit-learn's. What counts is the
# error on networks that the predictor has not seen. A quarter of the runs is held out, five times over; where
# a table has several states of one training run, all of them must be on the same side, or the
# predictor is asked what it has already been told. `groups` says which rows belong together. To save
# time, half as many trees as the kit's default are grown, each with twice the weight.


# %%
def score(name, X, estimator=None, y=y, groups=runs, above=None):
    estimator = estimator or trees
    found = predictors.evaluate(estimator, X, y, groups, above=above, rng=0).scores
    numbers = {f"{k} ({s})": found[k].agg(s) for k in ("r2", "tau", "mae") for s in ("mean", "std")}
    return pd.Series(numbers, name=name)


# %%
ranks = preprocessing.QuantileTransformer(n_quantiles=100)
estimators = {"logit-linear": pipeline.make_pipeline(ranks, predictors.logit_linear())}
trees = predictors.boosted_trees(random_state=0).set_params(max_iter=200, learning_rate=0.1)
estimators["boosted trees"] = trees
estimators["neural network"] = predictors.neural_network(random_state=0)
base = pd.DataFrame([score(name, statistics, one) for name, one in estimators.items()])
print(base.round(2).to_string())

# %% [markdown]
# R2 is the share of the variance of accuracy that is explained, $\tau$ (Kendall) tells how far two
# networks come in the right order, and the last is the mean absolute error.

# %% [markdown]
# ### Networks that it has not seen
#
# The held-out networks, each predicted by trees that have not seen it; over them, the mean of the
# true accuracy in eight bins of the predicted one.

# %%
found = predictors.evaluate(trees, statistics, y, runs, rng=0).predictions
calibration = predictors.calibration(found.y, found.predicted, n_bins=8)
ax = plots.plot_predictions(found, calibration=calibration)
print(plots.describe(ax))

# %% [markdown]
# ## Which layer tells?
#
# All columns of one layer are shuffled together among the held-out networks. How much worse does
# the prediction become?

# %%
importance = predictors.importance_by_layer(trees, statistics, y, runs, rng=0)
print(importance.round(2).to_string(index=False))

# %%
ax = plots.plot_importance(importance)
print(plots.describe(ax))

# %% [markdown]
# ## Rivals
#
# Are 56 statistics more than flat weights, norms and spectra? And there is another proposal: Jin et
# al. (2020) measure how alike the neurons of a layer are. With $w_i$ the weights into neuron $i$,
# of $n$, the **weight correlation** is the mean absolute cosine over all pairs,
#
# $$ \rho = \frac{1}{n(n-1)} \sum_{i \ne j} \frac{|w_i^\top w_j|}{\lVert w_i \rVert \lVert w_j \rVert} . $$
#
# It has a level of chance: random vectors in $d$ dimensions have a mean absolute cosine of
# $\Gamma(d/2) / (\sqrt\pi\,\Gamma((d+1)/2))$, far from zero where $d$ is small.

# %%
W = trained.weights["fc.weight"][0].double().numpy()
unit = W / np.linalg.norm(W, axis=1, keepdims=True)
cosines = np.abs(unit @ unit.T)[~np.eye(len(W), dtype=bool)]
helper = features.weight_correlation(trained.weights["fc.weight"][0])
print("equal to the helper:", np.isclose(cosines.mean(), helper))
vectors = np.random.default_rng(0).standard_normal((2000, 16))
unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
chance = np.abs((unit[0::2] * unit[1::2]).sum(axis=1)).mean()
print(f"chance at d = 16: drawn {chance:.2f}, formula {features.correlation_chance(16):.2f}")

# %%
flat = torch.cat([stack.flatten(1) for stack in trained.weights.values()], dim=1).numpy()
spectral = features.spectral_features(trained.weights)
correlation = features.correlation_features(trained.weights)
rows = [score("flat weights, ridge", flat, linear_model.Ridge())]
rows += [score("spectra of the layers", spectral), score("weight correlation", correlation)]
rows.append(score("all three tables", pd.concat([statistics, spectral, correlation], axis=1)))
print(pd.DataFrame(rows).round(2).to_string())

# %% [markdown]
# ### Single numbers
#
# The spectra and the weight correlation tell much of the same. What do single numbers tell, such as
# the mean correlation over the layers, or Hill's alpha, which tutorial 01 looked at? Over all
# networks, and over the good ones only:

# %%
numbers = {"weight correlation": correlation.filter(like=".correlation").mean(axis=1)}
numbers["alpha (Hill), conv2, conv3"] = spectral.filter(regex="conv[23].*hill").mean(axis=1)
numbers["norm of the last layer"] = spectral["fc.weight.log_norm"]
singles = pd.DataFrame(numbers).assign(accuracy=y)
good = singles[y > 0.8].corr("kendall").accuracy
print(pd.DataFrame({"tau, all": singles.corr("kendall").accuracy, "tau, over 0.8": good}).round(2))

# %% [markdown]
# Each of them tells trained networks from failed ones, and hardly tells a good network from a
# better one. With few filters, a layer has 16 eigenvalues at most: alpha is a demonstration here.

# %% [markdown]
# ## What would have fooled us
#
# **Was it known before training?** The same features of the untrained networks. **Was it the
# hyper-parameters?** A learning rate that is too small gives a bad network, and one can know it
# without looking at any weight. **Was it chance?** The accuracies in a random order.

# %%
names = ["learning_rate", "weight_decay", "dropout", "init_std", "train_fraction"]
choices = pd.get_dummies(trained.records[["optimizer", "activation", "init"]])
hyper = trained.records[names].join(choices).astype(float)
initial = features.weight_statistics(before.weights).round(6)
mixed = np.random.default_rng(0).permutation(y)
rows = [score("untrained weights", initial), score("hyper-parameters", hyper)]
rows += [score("both", hyper.join(statistics)), score("permuted labels", statistics, y=mixed)]
controls = pd.DataFrame(rows)
print(controls.round(2).to_string())

# %% [markdown]
# Nothing is known before training, and nothing by chance. But a good part is known from the
# hyper-parameters alone: weights add to it, and they are all that one has of a network from
# elsewhere.

# %% [markdown]
# ### Good against bad
#
# **Is it only good against bad?** Half of the work is to tell a network that failed from one that
# learned. Scored on the networks above an accuracy of 0.8 alone, and with the split done wrong, at
# random over a table in which every network stands twice:

# %%
twice = pd.concat([statistics, statistics], ignore_index=True)
leak = {"y": np.tile(y, 2), "groups": np.arange(2 * len(y))}
rows = [score("all networks", statistics), score("above 0.8", statistics, above=0.8)]
rows += [score("each twice, split by run", twice, y=leak["y"], groups=np.tile(runs, 2))]
rows += [score("each twice, split at random", twice, **leak)]
split = pd.DataFrame(rows)
print(split.filter(like="tau").round(2).to_string())

# %% [markdown]
# Among good networks most of the order is lost. A leak, in turn, makes any predictor look good.
#
# **Does it predict generalisation?** The gap between training and test accuracy, of the networks
# that learned (above 0.8):

# %%
gap = (trained.records.train_accuracy - trained.records.test_accuracy).to_numpy()
rows = [score("gap, all networks", statistics, y=gap)]
rows.append(score("gap, above 0.8", statistics[y > 0.8], y=gap[y > 0.8], groups=runs[y > 0.8]))
print(pd.DataFrame(rows).round(2).to_string())

# %% [markdown]
# With R2 around zero, the gap of networks that learned is **not predicted** here; at best, a trace of
# its order is.

# %% [markdown]
# ## Asking the network
#
# If there are images without labels, one can do better: pass 128 of them through each network, and
# look at how sure its answers are and how they are spread over the classes.

# %%
images = digits.validation_x[:128]
answers = zoo.outputs(cnn, trained.weights, images, activation=trained.records.activation)
asked = features.output_statistics(answers)
rows = [score("answers", asked), score("answers and statistics", statistics.join(asked))]
rows.append(score("the same, above 0.8", statistics.join(asked), above=0.8))
print(pd.DataFrame(rows).filter(like="tau").round(2).to_string())

# %% [markdown]
# ## Another data set
#
# A second zoo, half as large, learns the same digits under noise. Does a predictor made on one zoo
# work on the other?

# %%
noise = torch.Generator().manual_seed(1)
clean = {"train_x": digits.train_x, "test_x": digits.test_x}
drawn = {key: torch.randn(x.shape, generator=noise, dtype=x.dtype) for key, x in clean.items()}
noisy = replace(digits, **{key: x + 0.4 * drawn[key] for key, x in clean.items()})
half = table[: N_MODELS // 2]
others = zoo.train_zoo(cnn, noisy, half.assign(seed=1000 + half.index), folder=folder)

# %%
others = others.select(others.records.status == "trained")
other = features.weight_statistics(others.weights).round(6), others.records.test_accuracy
zoos = {"digits": (statistics, y, runs), "noisy": (*other, 10_000 + others.records.run)}
matrix = predictors.transfer(trees, zoos, rng=0)
print(matrix.round(2).to_string())

# %%
ax = plots.plot_transfer(matrix)
print(plots.describe(ax))

# %% [markdown]
# Off the diagonal, the order of the networks is still found, and R2 is far lower: what a given
# weight statistic means in points of accuracy depends on the data. **Ranking carries over,
# calibration does not.**

# %% [markdown]
# ## How many models does it take?
#
# The same trees, fitted to fewer networks, and scored on the same held-out ones.

# %%
sizes = [size for size in (24, 48, 96, 192, 384, 768) if size <= 0.75 * len(y)]
curve = predictors.learning_curve(trees, statistics, y, runs, sizes, rng=0)
print(curve.round(2).to_string(index=False))

# %%
ax = plots.plot_learning_curve(curve)
print(plots.describe(ax))

# %% [markdown]
# ## Look around
#
# Choose features, colours and a model; look at its weights, its spectrum, and what is predicted for
# it. Find a network that is predicted far too good, and say what is odd about it.

# %%
explorer = widgets.ZooExplorer(trained, network=cnn, data=digits)
explorer

# %%
print(explorer.code())

# %% [markdown]
# ## The paper's claims, and ours
#
# Claims of Unterthiner et al. (2020) and, the last one, of Jin et al. (2020), in our words, beside
# what this page saw. ± is the standard deviation over five splits of one zoo.
#
# The figures of Unterthiner et al. are those that its authors published with their code, of 15,000
# networks for each data set, whose trees stop on the test set.

# %% tags=["claims", "hide-input"]
# The paper's claims beside ours (click to open the code)


def seen(table, row, metric="r2"):
    return f"{table.loc[row, f'{metric} (mean)']:.2f} ± {table.loc[row, f'{metric} (std)']:.2f}"


across = [
    matrix.loc[pair[0], ("tau", pair[1])] for pair in (("digits", "noisy"), ("noisy", "digits"))
]
lost = matrix.loc["digits", ("r2", "noisy")]
correlated = singles["weight correlation"]
over_all, over_good = correlated.corr(singles.accuracy, "kendall"), good["weight correlation"]
course.claims(
    (
        "accuracy can be read off statistics of the weights: R2 of trees 0.993 on MNIST, 0.984 on "
        "CIFAR-10 in grey",
        f"R2 {seen(base, 'boosted trees')}",
        "1 zoo, 5 splits",
        f"above an accuracy of 0.8, tau is {seen(split, 'above 0.8', 'tau')}",
    ),
    (
        "trees do it better than a linear model: R2 0.993 and 0.920 on MNIST",
        f"R2 {seen(base, 'boosted trees')} and {seen(base, 'logit-linear')}",
        "1 zoo, 5 splits",
        f"hyper-parameters alone reach {seen(controls, 'hyper-parameters')}",
    ),
    (
        "networks of a data set that the predictor has not seen are put in the right order",
        f"tau {across[0]:.2f} and {across[1]:.2f}, from one of two zoos to the other",
        "2 zoos",
        f"R2 falls to {lost:.2f}; other architectures were not tried",
    ),
    (
        "the less alike the neurons of a layer are, the better the network",
        f"tau of weight correlation and accuracy {over_good:.2f} above an accuracy of 0.8",
        "1 zoo",
        f"over all networks it has the other sign, {over_all:.2f}: see exercise 2.3",
    ),
)

# %% [markdown]
# ## Limits
#
# - One architecture, one small data set, a few hundred networks, one way to draw hyper-parameters.
#   What makes a network fail in this draw (learning rates, initial scales, few images) is what the
#   predictor learns to see; another draw would pose another question.
# - The spread is that of five splits of one zoo, which share networks; another zoo would spread
#   more.
# - The accuracies themselves are measured on a few hundred images, which bounds every tau: with
#   another test set of that size, accuracy itself would not have a tau of 1 with what it was.
# - The boosted trees' settings were chosen on zoos like this one.

# %% [markdown]
# ## Exercises
#
# Each is checked by the cell under it, which says what is wrong and never what is right.

# %% [markdown]
# ### Exercise 2.1 ★ (10 minutes)
#
# Write the weight correlation of a dense layer: the mean absolute cosine over all pairs of two
# different neurons, for a matrix with a neuron a row. Leave out neurons that are dead, whose
# weights are all zero.


# %% tags=["exercise"]
# Exercise 2.1
def correlation_of(W):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_weight_correlation(correlation_of))

# %% [markdown]
# <details><summary>Hint 2.1</summary>
#
# Bring each row to length 1 first. Which entries of the matrix of all products are not pairs?
#
# </details>
#
# <details><summary>Expected output 2.1</summary>
#
# ```text
# Passed: the neurons are compared, pair by pair.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 2.1 (click to open)
def correlation_of(W):
    alive = W[np.linalg.norm(W, axis=1) > 0]
    unit = alive / np.linalg.norm(alive, axis=1, keepdims=True)
    return np.abs(unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean()


print(exercises.check_weight_correlation(correlation_of))

# %% [markdown]
# ### Exercise 2.2 ★ (10 minutes)
#
# A zoo has several states of each run, more of some than of others. Divide its rows without a leak:
# given the run of each row, return an array that is True where a row is held out. A quarter of the
# *runs* is held out, each with all of its rows, and `rng` decides which.


# %% tags=["exercise"]
# Exercise 2.2
def hold_out(runs, rng):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_split(hold_out))

# %% [markdown]
# <details><summary>Hint 2.2</summary>
#
# Decide about runs, not about rows. How many runs are there, whatever their numbers? Then ask of
# each row whether its run was chosen.
#
# </details>
#
# <details><summary>Expected output 2.2</summary>
#
# ```text
# Passed: every run is on one side, and chance decides on which.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 2.2 (click to open)
def hold_out(runs, rng):
    labels = np.unique(runs)
    return np.isin(runs, rng.choice(labels, len(labels) // 4, replace=False))


print(exercises.check_split(hold_out))

# %% [markdown]
# ### Exercise 2.3 ★★ (15 minutes)
#
# Over all networks, more alike neurons went with a *better* network: against the claim of Jin et
# al., who compare networks that are otherwise trained alike. Make the comparison fair. Write
# Kendall's $\tau$ over those pairs of networks only that are of the same group, all groups together:
# the share of these pairs that `x` and `y` put in the same order, less the share that they put in
# opposite orders. A pair that is equal in `x` or in `y` is neither, but is a pair. Then take for the
# groups the optimisers of the zoo.


# %% tags=["exercise"]
# Exercise 2.3
def tau_within(x, y, groups):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_tau_within(tau_within))

# %% [markdown]
# <details><summary>Hint 2.3</summary>
#
# The sign of a difference tells the order of two networks; what is the product of two signs? With
# all differences in one table, `x[:, None] - x`, each pair is there twice, and each network with
# itself once.
#
# </details>
#
# <details><summary>Expected output 2.3</summary>
#
# ```text
# Passed: only networks of one group are compared.
# weight correlation and accuracy: 0.33 over all, -0.07 within an optimiser
# ```
#
# The sign turns. Networks that SGD trained have low correlations and low accuracies; Adam's and
# RMSprop's have more of both. Between the optimisers lies all of the 0.33, and within them the order
# is that of Jin et al., if anything: Simpson's paradox.
#
# </details>


# %% tags=["solution"]
# Solution 2.3 (click to open)
def tau_within(x, y, groups):
    i, j = np.triu_indices(len(x), k=1)
    i, j = i[groups[i] == groups[j]], j[groups[i] == groups[j]]
    return (np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])).mean()


print(exercises.check_tau_within(tau_within))
alike = singles["weight correlation"].to_numpy()
both = [tau_within(alike, y, g) for g in (np.zeros(len(y)), trained.records.optimizer.to_numpy())]
print("weight correlation and accuracy: {:.2f} over all, {:.2f} within an optimiser".format(*both))

# %% [markdown]
# ### Exercise 2.4 ★★ (15 minutes)
#
# The ranking carries over to another data set, the calibration does not. Suppose that you know the
# accuracies of ten networks of the noisy zoo. Set the predictions of the others right: the function
# gets what the trees predict for these, what they predict for the ten, and the accuracies of the ten.
# The check draws the ten twenty times. The mean error must fall to three quarters of what it was or
# less, and the order must stay.

# %%
foreign = trees.fit(statistics, y).predict(other[0])


# %% tags=["exercise"]
# Exercise 2.4
def set_right(predicted, few_predicted, few_true):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_recalibrate(set_right, foreign, other[1]))

# %% [markdown]
# <details><summary>Hint 2.4</summary>
#
# Draw the true accuracies of the noisy zoo over the predicted ones. Is it enough to shift the
# cloud? With ten points, how many numbers can you afford to fit?
#
# </details>
#
# <details><summary>Expected output 2.4</summary>
#
# ```text
# Passed: the mean error is 0.068 and was 0.143; tau is 0.74 and was 0.74.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 2.4 (click to open)
def set_right(predicted, few_predicted, few_true):
    slope, shift = np.polyfit(few_predicted, few_true, 1)
    return slope * predicted + shift


print(exercises.check_recalibrate(set_right, foreign, other[1]))

# %% [markdown]
# ### Exercise 2.5 ★★★ (open-ended, 20 minutes)
#
# Design a feature: what do 56 statistics not see? Explore with the `ZooExplorer` above. Press
# *Retrain on selection*; `explorer.predictions` then holds what is predicted for each network by
# trees that have not seen it. Choose those that are most wrong, and look at their weights. A number
# of yours can be looked at as well: `widgets.ZooExplorer(trained, features=statistics.assign(mine=...),
# x="mine", y="test_accuracy")`.
#
# Your function gets a zoo whose records say nothing but the activation, and returns an array of a row
# a network, with as many columns as you like. It is put beside the 56 statistics, trees are fitted,
# and scored on splits that nobody knows.
#
# **Goal:** tau on held-out networks rises by more than the standard error of its gain, without an
# image of the data set.


# %% tags=["exercise"]
# Exercise 2.5
def design(models):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_feature(design, trained))

# %% [markdown]
# <details><summary>Hint 2.5</summary>
#
# The statistics forget how layers follow each other. What could one learn from what a network does
# with input that means nothing? Images of noise need no data set.
#
# </details>
#
# <details><summary>Expected output 2.5</summary>
#
# ```text
# Passed: tau 0.79 with your feature and 0.74 without, a gain of 0.047 ± 0.026 over 5 hidden splits.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 2.5 (click to open)
def design(models):
    nonsense = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).abs()
    answers = zoo.outputs(cnn, models.weights, nonsense, activation=models.records.activation)
    return features.output_statistics(answers)


print(exercises.check_feature(design, trained))

# %% [markdown]
# ## Summary
#
# - A few hundred networks and 56 numbers of each suffice to predict the accuracy of a network that
#   was never seen, without test images, with a mean error below ten points. Trees do it better than
#   a linear model.
# - Nothing is known before training. Much is known from the hyper-parameters alone, and the weights
#   add to it.
# - Half of the success is to tell failures from networks that learned. Among good networks little
#   order is left, and the generalisation gap is not predicted.
# - Weight correlation, norms and alpha mostly tell whether a network was trained at all.
# - What the networks answer to unlabelled images tells more than their weights.
# - On another data set the ranking carries over, the calibration does not.

# %% [markdown]
# ## For discussion
#
# 1. The hyper-parameters alone predict accuracy nearly as well as the weights do. For whom is a
#    predictor from weights of use, and what would have to be shown to that person?
# 2. Tau is about 0.75 over all networks and less than half of that above 0.8. Which of the two would
#    you report? Who decides how many failures a fair zoo has?
# 3. Jin et al. use weight correlation as a penalty in training. What could this page show for or
#    against that?
# 4. Two runs with the same hyper-parameters and other seeds: may they be on two sides of a split?
# 5. A platform ranks uploaded models by a score that is read off their weights. What happens next?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. Whoever has a file and not its history: a registry of models, a buyer, a security audit. It would
#    have to be shown on networks from elsewhere, whose draw of hyper-parameters nobody knows, and
#    against the rivals that this person has: a handful of unlabelled images tell more.
# 2. Both, with the distribution of accuracies. Tau over all is a number about the draw as much as
#    about the predictor: with more failures it rises. No share of failures is fair by itself; that of
#    the intended use is.
# 3. It could show whether the correlation goes with accuracy among networks that are trained alike
#    (exercise 2.3: weakly, and in their direction). It cannot show what a penalty does: that is an
#    intervention, and needs networks trained with and without it, `features.correlation_penalty`.
# 4. It depends on what is claimed. For "networks of this zoo" yes; for "settings that were not seen"
#    no: then settings are the groups. The unit that is held out is the unit about which one claims
#    something.
# 5. Weights that score well are made without being good (rescaling a ReLU layer and its successor
#    changes the statistics and not the function). A measure that becomes a target needs a test that
#    is hard to game: the images.
#
# **Where students go wrong.** They take a high R2 over a zoo with failures for skill among good
# networks; they split rows and not runs (exercise 2.2; a random split of doubled rows gives a tau
# of about 0.9 for nothing); they read tau as a share of right pairs (0.75 means that seven of eight
# pairs are in the right order); they average tau over groups of any size (exercise 2.3); they call
# the transfer a failure because R2 is low, and overlook that the order has stayed.
#
# **How long it takes.** The zoo and the features 10 minutes, prediction and layers 10, rivals and
# controls 10, transfer and learning curve 5; the exercises as they say, 2.5 in pairs. In a lesson of
# 45 minutes: the page as far as the controls, then exercise 2.3.
#
# </details>

# %% [markdown]
# ## References
#
# 1. T. Unterthiner, D. Keysers, S. Gelly, O. Bousquet and I. Tolstikhin, *Predicting neural network
#    accuracy from weights*, 2020, arXiv:2002.11448.
# 2. G. Jin, X. Yi, L. Zhang, L. Zhang, S. Schewe and X. Huang, *How does weight correlation affect
#    the generalisation ability of deep neural networks?*, NeurIPS 2020, arXiv:2010.05983.
# 3. G. Eilertsen, D. Jönsson, T. Ropinski, J. Unger and A. Ynnerman, *Classifying the classifier:
#    dissecting the weight space of neural networks*, ECAI 2020, arXiv:2002.05688.
# 4. K. Schürholt, D. Taskiran, B. Knyazev, X. Giró-i-Nieto and D. Borth, *Model zoos: a dataset of
#    diverse populations of neural network models*, NeurIPS Datasets and Benchmarks 2022,
#    arXiv:2209.14764.
# 5. G. Ke et al., *LightGBM: a highly efficient gradient boosting decision tree*, NeurIPS 2017 (the
#    paper's trees; those used here are scikit-learn's of the same kind), code:
#    github.com/microsoft/LightGBM.
#
# **Next:** [03, knowledge is a region](03_knowledge_regions.ipynb).
