"""One tutorial, another every day, under the kernels that this process was started with.

`make test` starts it under others than the processor's own: what the page prints may not depend
on them. No test collects this file by its name.
"""

from datetime import date

from notebook_kit import NOTEBOOKS, nbval


def test_the_page_of_the_day_prints_the_same_numbers():
    pages = sorted(NOTEBOOKS.glob("*.ipynb"))
    page = pages[date.today().toordinal() % len(pages)]
    done = nbval([page])
    assert done.returncode == 0, done.stdout[-20_000:]
