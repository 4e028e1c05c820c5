import pandas as pd
import pytest
import torch

from wskit.errors import ZooError
from wskit.zoo import Zoo, concatenate


def make(n, first_run=0):
    weights = {
        "w": torch.arange(6.0 * n).reshape(n, 2, 3) + 100 * first_run,
        "b": torch.arange(float(n)) + 100 * first_run,
    }
    records = pd.DataFrame({"run": range(first_run, first_run + n), "epoch": 1.0})
    return Zoo(weights, records.assign(status="trained"))


def test_a_model_is_its_row():
    zoo = make(3)
    assert len(zoo) == 3
    assert torch.equal(zoo.model(2)["w"], torch.arange(12.0, 18.0).reshape(2, 3))
    assert zoo.model(-1)["b"] == 2


@pytest.mark.parametrize(
    "rows",
    [
        slice(1, 4, 2),
        [1, 3],
        torch.tensor([1, 3]),
        pd.Series([False, True, False, True, False]),
        [False, True, False, True, False],
    ],
)
def test_models_are_selected_with_their_rows(rows):
    chosen = make(5).select(rows)
    assert chosen.records.run.tolist() == [1, 3]
    assert chosen.records.index.tolist() == [0, 1]
    assert chosen.weights["b"].tolist() == [1, 3]


def test_the_order_of_a_selection_is_kept_and_a_slice_is_no_copy():
    zoo = make(5)
    assert zoo.select([4, 0, 4]).weights["b"].tolist() == [4, 0, 4]
    assert zoo.select(slice(2)).weights["w"].data_ptr() == zoo.weights["w"].data_ptr()


def test_nothing_may_be_selected():
    assert len(make(2).select([])) == 0


def test_zoos_are_put_together_in_order():
    zoo = concatenate([make(2), make(3, first_run=2)])
    assert zoo.records.run.tolist() == [0, 1, 2, 3, 4]
    assert zoo.records.index.tolist() == [0, 1, 2, 3, 4]
    assert zoo.weights["b"].tolist() == [0, 1, 200, 201, 202]


def test_bad_zoos_are_refused_in_one_sentence():
    with pytest.raises(ZooError, match=r"'w' has the shape \(2, 3\) where the table has 1 rows"):
        Zoo({"w": torch.zeros(2, 3)}, pd.DataFrame({"run": [0]}))
    with pytest.raises(ZooError, match=r"'w' has the shape \(\) where"):
        Zoo({"w": torch.tensor(1.0)}, pd.DataFrame({"run": [0]}))
    with pytest.raises(ZooError, match="no zoos"):
        concatenate([])
    one, other = make(1), Zoo({"w": torch.zeros(1, 2, 3)}, pd.DataFrame({"run": [0]}))
    with pytest.raises(
        ZooError, match=r"tensor 'b' differs between the first and number 1: .* None"
    ):
        concatenate([one, other])
