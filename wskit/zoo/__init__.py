"""Many small models as stacked tensors, trained together."""

from wskit.zoo._architectures import MLP, SmallCNN
from wskit.zoo._formats import load_zoo
from wskit.zoo._hyperparameters import sample_hyperparameters
from wskit.zoo._outputs import outputs
from wskit.zoo._save import save_zoo
from wskit.zoo._train import Compute, TrainingData, train_blocks, train_zoo
from wskit.zoo._zoo import Zoo, concatenate

__all__ = [
    "MLP",
    "Compute",
    "SmallCNN",
    "TrainingData",
    "Zoo",
    "concatenate",
    "load_zoo",
    "outputs",
    "sample_hyperparameters",
    "save_zoo",
    "train_blocks",
    "train_zoo",
]
