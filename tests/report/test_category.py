import numpy as np
import pytest

from jaxad.report.category import FALSE_ALARM, HIGHEST, LOWEST, MISSED, CategoryResult, choose_cases

SCORES = np.array([0.1, 0.9, 0.3, 0.8, 0.2, 0.7])
LABELS = np.array([0, 0, 1, 1, 0, 1], bool)


def test_cases_are_the_extremes_and_the_wrongly_decided():
    assert choose_cases(SCORES, LABELS, threshold=0.5, per_group=1) == {
        0: (LOWEST,),
        1: (HIGHEST, FALSE_ALARM),
        2: (MISSED,),
    }


def test_without_threshold_nothing_is_wrong():
    assert choose_cases(SCORES, LABELS, None, per_group=2) == {0: (LOWEST,), 1: (HIGHEST,), 3: (HIGHEST,), 4: (LOWEST,)}


def test_equal_scores_are_chosen_by_index_and_nan_never():
    scores = np.array([np.nan, 1.0, 1.0, 1.0])
    assert choose_cases(scores, np.zeros(4, bool), None, per_group=1) == {1: (HIGHEST, LOWEST)}


def test_a_score_on_the_threshold_is_normal():
    result = CategoryResult("c", {}, list("ab"), np.array([0.5, 0.5]), np.array([False, True]), ["", ""], threshold=0.5)
    assert (result.false_alarms, result.missed) == (0, 1)
    assert choose_cases(result.scores, result.labels, 0.5, per_group=0) == {}
    assert choose_cases(result.scores, result.labels, 0.5)[1] == (HIGHEST, LOWEST, MISSED)


def test_without_threshold_nothing_is_counted_as_wrong():
    result = CategoryResult("c", {}, list("ab"), np.array([0.5, 0.5]), np.array([False, True]), ["", ""])
    assert (result.false_alarms, result.missed) == (0, 0)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        CategoryResult("c", {}, ["a"], np.zeros(2), np.zeros(2, bool), ["", ""])
