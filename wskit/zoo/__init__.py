"""Many small models as stacked tensors, trained together."""

from wskit.zoo._hyperparameters import sample_hyperparameters
from wskit.zoo._load import load_zoo
from wskit.zoo._networks import MLP, SmallCNN
from wskit.zoo._outputs import outputs
from wskit.zoo._save import save_zoo
from wskit.zoo._train import train_zoo
from wskit.zoo._zoo import Zoo, concatenate

__all__ = [
    "MLP",
    "SmallCNN",
    "Zoo",
    "concatenate",
    "load_zoo",
    "outputs",
    "sample_hyperparameters",
    "save_zoo",
    "train_zoo",
]


def __dir__() -> list[str]:
    return __all__
