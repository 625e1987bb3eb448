"""Successive halving decides for a whole cohort, whatever the order in which its values come."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.spec import PrunerSpec
from sweeper.pruning import NoPruning, Standing, SuccessiveHalving, make_pruner


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=64), factor=st.integers(2, 5), seed=st.integers()
)
def test_a_cohort_keeps_its_best_share_in_any_order(values: list[float], factor: int, seed: int) -> None:
    cohort = [Standing(number, 1, value) for number, value in enumerate(values)]
    random.Random(seed).shuffle(cohort)
    stopped = SuccessiveHalving(1, factor, 50).decide(cohort)
    kept = [value for number, value in enumerate(values) if number not in stopped]
    assert sorted(kept, reverse=True) == sorted(values, reverse=True)[: max(1, len(values) // factor)]


def test_of_equals_the_earlier_go_on_and_no_more_than_the_share() -> None:
    assert SuccessiveHalving(1, 2, 10).decide([Standing(n, 1, 0.1) for n in (5, 3, 1, 0, 2, 4)]) == {3, 4, 5}


def test_rungs_grow_by_the_factor_and_end_before_the_last_epoch() -> None:
    assert SuccessiveHalving(5, 2, 60).rungs == [5, 10, 20, 40]
    assert SuccessiveHalving(4, 3, 36).rungs == [4, 12]
    assert SuccessiveHalving(10, 2, 10).rungs == []


def test_later_trials_compete_with_all_that_reached_the_rung() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    assert pruner.decide([Standing(n, 1, v) for n, v in enumerate([0.9, 0.8, 0.7, 0.6])]) == {2, 3}
    assert pruner.decide([Standing(4, 1, 0.85)]) == set()
    assert pruner.decide([Standing(5, 1, 0.75)]) == {5}
    assert pruner.decide([Standing(0, 3, 0.0)]) == set()  # no rung


def test_a_protected_trial_competes_but_is_not_stopped() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    assert pruner.decide([Standing(0, 1, 0.1, protected=True), Standing(1, 1, 0.5)]) == set()
    assert pruner.decide([Standing(2, 1, 0.9, protected=True), Standing(3, 1, 0.4)]) == {3}


def test_a_trial_that_begins_again_is_forgotten() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    pruner.decide([Standing(0, 1, 0.9)])
    pruner.forget(0)
    assert pruner.decide([Standing(1, 1, 0.1)]) == set()


@pytest.mark.parametrize(("name", "kind"), [("none", NoPruning), ("successive_halving", SuccessiveHalving)])
def test_the_spec_chooses(name: str, kind: type) -> None:
    pruner = make_pruner(PrunerSpec.model_validate({"name": name}), 60)
    assert isinstance(pruner, kind)
