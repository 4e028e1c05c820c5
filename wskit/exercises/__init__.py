"""The tutorials' self-checks: they say what is wrong and give a hint, but never the answer.

Each check takes the reader's function, tries it on cases of its own, and returns a `Verdict`.
A check never raises, whatever the function does, so that an unfinished exercise does not stop a
notebook.
"""

from wskit.exercises._accuracy import (
    check_feature,
    check_recalibrate,
    check_split,
    check_tau_within,
    check_weight_correlation,
)
from wskit.exercises._esd import (
    check_forge,
    check_marchenko_pastur_edge,
    check_p_value,
    check_power_law_exponent,
    check_tell_trained,
)
from wskit.exercises._own_model import (
    check_directions,
    check_find_damage,
    check_later,
    check_relative_change,
    make_mystery,
)
from wskit.exercises._regions import (
    check_find_edge,
    check_match_neurons,
    check_place,
    check_read_task,
    check_update_cosine,
)
from wskit.exercises._scale import (
    check_cost_exponent,
    check_hours,
    check_safe_row,
    check_suspicion,
    make_damaged,
)
from wskit.exercises._soups import (
    check_add_tasks,
    check_choose,
    check_expected_gain,
    check_thrifty_greedy,
)
from wskit.exercises._start import (
    check_count_weights,
    check_permute_hidden,
    check_rescale_hidden,
    check_sort_file,
    write_mysteries,
)
from wskit.exercises._swa import (
    check_design,
    check_ema_coefficients,
    check_merge_means,
    check_settled_variance,
)
from wskit.exercises._verdict import Verdict

__all__ = [
    "Verdict",
    "check_add_tasks",
    "check_choose",
    "check_cost_exponent",
    "check_count_weights",
    "check_design",
    "check_directions",
    "check_ema_coefficients",
    "check_expected_gain",
    "check_feature",
    "check_find_damage",
    "check_find_edge",
    "check_forge",
    "check_hours",
    "check_later",
    "check_marchenko_pastur_edge",
    "check_match_neurons",
    "check_merge_means",
    "check_p_value",
    "check_permute_hidden",
    "check_place",
    "check_power_law_exponent",
    "check_read_task",
    "check_recalibrate",
    "check_relative_change",
    "check_rescale_hidden",
    "check_safe_row",
    "check_settled_variance",
    "check_sort_file",
    "check_split",
    "check_suspicion",
    "check_tau_within",
    "check_tell_trained",
    "check_thrifty_greedy",
    "check_update_cosine",
    "check_weight_correlation",
    "make_damaged",
    "make_mystery",
    "write_mysteries",
]


def __dir__() -> list[str]:
    return __all__
