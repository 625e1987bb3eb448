"""What is searched: steps, lists of numbers, numbers that go with a choice; what baselines and enqueued trials have of them."""

from __future__ import annotations

import optuna
import pytest
from helpers import TINY
from hypothesis import given
from hypothesis import strategies as st

from studies.errors import SpecInvalid
from studies.loader import parse_study
from studies.section import RangeSpec
from studies.spec import StudySpec
from sweeper.search import configuration_of, first_trials, is_complete, samples, suggest

LOSSES = 'loss = ["cross_entropy", "mse", "hinge"]'


def searching(*lines: str, losses: str = LOSSES) -> StudySpec:
    """The tiny study with another table `[search]`."""
    before, after = TINY.split("[search]")
    return parse_study(before + "[search]\n" + "\n".join([*lines, losses]) + "\n[pruner]" + after.split("[pruner]")[1], "t.toml")


def proposals(spec: StudySpec, count: int = 60) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1), direction="maximize")
    for params, _ in first_trials(spec):
        study.enqueue_trial(params)
    for _ in range(count):
        trial = study.ask()
        suggest(trial, spec)
        study.tell(trial, 0.5)
    return [trial.params for trial in study.trials]


@given(low=st.integers(0, 5), step=st.sampled_from([0.05, 0.1, 0.25, 1.0]), count=st.integers(1, 20))
def test_a_range_with_a_step_has_the_values_that_optuna_counts(low: int, step: float, count: int) -> None:
    searched = RangeSpec(low=low, high=round(low + count * step, 9), step=step)
    distribution = optuna.distributions.FloatDistribution(searched.low, searched.high, step=step)
    assert searched.grid is not None
    assert len(searched.grid) == count + 1
    for value in searched.grid:
        assert distribution._contains(distribution.to_internal_repr(value))
        assert searched.sampled(value) == value or value == 0
    assert searched.sampled(low + step / 2) is None


def test_only_values_on_the_steps_and_of_the_list_are_proposed() -> None:
    spec = searching("dropout = { low = 0.0, high = 0.6, step = 0.2 }", "l2 = [0, 1e-4, 1e-2]")
    found = proposals(spec)
    assert {round(params["dropout"], 9) for params in found} == {0.0, 0.2, 0.4, 0.6}  # type: ignore[call-overload]
    assert {params["l2"] for params in found} == {0.0, 1e-4, 1e-2}
    assert [params["l2"] for params in found[:3]] == [0.0] * 3


def test_a_number_is_asked_for_only_with_the_loss_that_has_it() -> None:
    spec = searching(
        "label_smoothing = { low = 0.0, high = 0.3 }",
        "focal_gamma = { low = 0.5, high = 4.0 }",
        losses='loss = ["cross_entropy", "focal", "hinge", "cross_entropy + hinge"]',
    )
    assert spec.search.conditional == ["label_smoothing", "focal_gamma", "mix_cross_entropy", "mix_hinge"]
    mixed = {"mix_cross_entropy", "mix_hinge"}
    expected = {
        "cross_entropy": {"label_smoothing"},
        "focal": {"focal_gamma"},
        "hinge": set(),
        "cross_entropy + hinge": {"label_smoothing", *mixed},
    }
    found = proposals(spec)
    assert {params["loss"] for params in found} == set(expected)
    for params in found:
        assert set(params) - {"loss"} == expected[str(params["loss"])]
        configuration = configuration_of(params, spec)
        assert configuration.focal_gamma == params.get("focal_gamma", 2.0)
        assert configuration.label_smoothing == params.get("label_smoothing", 0.0)
        assert is_complete(params, spec)
    assert not is_complete({"loss": "focal"}, spec)


def test_a_penalty_is_chosen_and_only_its_strengths_are_asked_for() -> None:
    l1, l2 = "l1 = { low = 1e-6, high = 1e-2, log = true }", "l2 = { low = 1e-5, high = 1e-1, log = true }"
    spec = searching(l1, l2, 'penalty = ["none", "l1", "l2", "l1 + l2"]')
    found = proposals(spec)
    assert {params["penalty"] for params in found} == {"none", "l1", "l2", "l1 + l2"}
    for params in found:
        configuration = configuration_of(params, spec)
        assert (configuration.l1 > 0, configuration.l2 > 0) == ("l1" in str(params["penalty"]), "l2" in str(params["penalty"]))
        assert ("l1" in params, "l2" in params) == (configuration.l1 > 0, configuration.l2 > 0)
    assert all(params["penalty"] == "none" for params in found[:3])
    assert spec.baseline_is_bare
    assert all(sample.l1 > 0 < sample.l2 for sample in samples(spec))


def test_an_enqueued_configuration_names_what_goes_with_its_choices() -> None:
    spec = searching(
        "l1 = { low = 1e-6, high = 1e-2, log = true }",
        "l2 = 1e-3",
        'penalty = ["none", "l1", "l2"]',
        "label_smoothing = { low = 0.0, high = 0.3 }",
    )
    assert spec.enqueued_params({"l1": 1e-3}) == {"l1": 1e-3, "penalty": "l1", "loss": "cross_entropy", "label_smoothing": 0.0}
    assert spec.enqueued_params({"penalty": "l2", "loss": "mse"}) == {"penalty": "l2", "loss": "mse"}
    assert configuration_of(spec.enqueued_params({"penalty": "l2", "loss": "mse"}), spec).l2 == 1e-3
    for values, message in [
        ({"penalty": "l1"}, "the penalty l1 needs a value of l1"),
        ({"penalty": "l2", "l1": 1e-3}, "l1 does not go with l2 and cross_entropy"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing does not go with none and mse"),
        ({"penalty": "l3"}, "search.penalty does not contain 'l3'"),
    ]:
        with pytest.raises(ValueError, match=message):
            spec.enqueued_params(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dropout = { low = 0.0, high = 0.5, step = 0.2 }"], "high (0.5) is not a whole number of steps (0.2) above low (0)"),
        (["l2 = { low = 1e-5, high = 1e-1, log = true, step = 1e-3 }"], "a log range has no step; give a list"),
        (["l2 = [1e-4, 1e-3]"], "l2: the baseline trains without it, so the list needs 0"),
        (["l2 = [0, 1e-3, 1e-3]"], "search.l2: a choice is named twice"),
        (["l2 = [0, -1e-3]"], "search.l2.1: found -0.001: input should be greater than or equal to 0"),
        (["learning_rate = [0, 1e-2]"], "learning_rate: it must be greater than 0"),
        (["learning_rate = [1e-3, 1e-1]"], "search.learning_rate must contain training.learning_rate (0.01)"),
        (["learning_rate = 1e-2"], "a fixed one is training.learning_rate"),
        (["l2 = [0, 1e-3]", 'penalty = ["l2"]'], "penalty: the baseline trains without any, so the choices need 'none'"),
        (["l2 = [0, 1e-3]", 'penalty = ["none", "l1", "l2"]'], "penalty and l1 go together"),
        (["l2 = [0, 1e-3]", "l1 = 0.1", 'penalty = ["none", "l2"]'], "penalty and l1 go together"),
        (["l2 = [0, 1e-3]", 'penalty = ["none", "l3"]'], "search.penalty.1: found 'l3'"),
        (["elastic_net = [0, 1e-3]", 'penalty = ["none", "l2"]'], "penalty chooses between l1 and l2; elastic_net is both"),
    ],
)
def test_a_space_that_cannot_be_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        searching(*lines)
    assert message in str(caught.value)
