"""Reports: what is found out, in numbers and words, and the page that is written."""

import pytest
import torch

from wskit import report


def test_first_words():
    torch.manual_seed(0)
    found = report.examine({"fc.weight": torch.randn(200, 100), "fc.bias": torch.zeros(200)})
    assert found.remarks["verdict"].tolist() == ["random"]


if __name__ == "__main__":
    pytest.main()
