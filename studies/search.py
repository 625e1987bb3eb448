"""The table `[search]`: what is searched. A number is fixed, a table is a range, a list is a choice.

Some numbers go with a choice: the focal loss has a γ, label smoothing is cross-entropy's, and where `penalty` is searched, `l1` is
there only in trials whose penalty has it. A trial that chose otherwise has no such number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from studies.data import UnknownName
from studies.section import ChoicesSpec, Number, RangeSpec, Searched, SearchedOnly, Section

LOSSES = ("cross_entropy", "mse", "square", "hinge", "squared_hinge", "focal")


class Term(NamedTuple):
    """One loss of a mixture, with its weight; None: searched."""

    loss: str
    weight: float | None


@lru_cache(maxsize=256)
def loss_terms(text: str) -> tuple[Term, ...]:
    """Read a loss: a name, or a mixture like `0.7 cross_entropy + 0.3 hinge` or `cross_entropy + hinge` (weights searched).

    Raises:
        UnknownName: a term is no loss.
        ValueError: it is no mixture.
    """
    terms = []
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(?:(\d*\.?\d+(?:[eE]-?\d+)?)\s+)?(\w+)\s*", part)
        if not match:
            raise ValueError("a mixture is written '0.7 cross_entropy + 0.3 hinge', or 'cross_entropy + hinge', weights searched")
        if match[2] not in LOSSES:
            raise UnknownName(LOSSES)
        terms.append(Term(match[2], float(match[1]) if match[1] else None))
        if terms[-1].weight == 0:
            raise ValueError(f"{match[2]} has the weight 0; leave it out")
    weights = [term.weight for term in terms]
    if len(terms) > 1 and None in weights and any(weight is not None for weight in weights):
        raise ValueError("give every term of a mixture a weight, or none")
    if len(terms) == 1 and weights[0] is not None:
        raise ValueError("a single loss has no weight: it would only change the learning rate")
    if len({term.loss for term in terms}) < len(terms):
        raise ValueError("a mixture names a loss twice")
    return tuple(terms)


def canonical_loss(text: str) -> str:
    """Return a loss as it is stored and shown, however it was spaced."""
    return " + ".join(term.loss if term.weight is None else f"{term.weight:g} {term.loss}" for term in loss_terms(text))


LossText = Annotated[str, AfterValidator(canonical_loss)]
Chosen = Annotated[
    Annotated[list[LossText], Field(min_length=1), Tag("<choices>")] | Annotated[LossText, Tag("<choice>")],
    Discriminator(lambda value: "<choices>" if isinstance(value, list) else "<choice>"),
]


OWNERS = {"label_smoothing": "cross_entropy", "focal_gamma": "focal", "square_k": "square", "square_m": "square"}
"""The loss that a number belongs to."""


class SearchSpec(Section):
    """What is searched, and what is fixed for all trials instead.

    The objective is `mean loss + l1·Σ|w| + (l2/2)·Σw²`; `weight_decay` is decoupled from it (AdamW's), `max_norm` limits
    the norm of each unit's incoming weights, `elastic_net` stands for `l1 = elastic_net · l1_ratio` and `l2 = elastic_net ·
    (1 − l1_ratio)`. `penalty` chooses which of `l1` and `l2` a trial
    has. Dropout rates by kind of layer go before `dropout`, which is for all dropout layers.
    """

    l1: Searched = 0.0
    l2: Searched = 0.0
    elastic_net: Searched = 0.0
    l1_ratio: Searched = 0.5
    weight_decay: Searched = 0.0
    max_norm: Searched = 0.0
    dropout: Searched | None = None
    dropout_input: Searched | None = None
    dropout_conv: Searched | None = None
    dropout_dense: Searched | None = None
    label_smoothing: Searched = 0.0
    focal_gamma: Searched = 2.0
    square_k: Searched = 1.0
    square_m: Searched = 1.0
    learning_rate: SearchedOnly | None = Field(None, description="searched instead of training.learning_rate, which baselines use")
    momentum: SearchedOnly | None = Field(None, description="searched instead of training.momentum, which baselines use")
    loss: Chosen = "cross_entropy"
    penalty: list[Literal["none", "l1", "l2", "l1 + l2"]] | None = Field(
        None, min_length=1, description="which of l1 and l2 a trial has: a choice; both, with what they find, if left out"
    )

    REGULARIZERS: ClassVar[tuple[str, ...]] = (
        "l1", "l2", "elastic_net", "weight_decay", "max_norm",
        "dropout", "dropout_input", "dropout_conv", "dropout_dense", "label_smoothing",
    )  # fmt: skip
    """What a baseline trains without."""
    OTHERS: ClassVar[dict[str, float]] = {"l1_ratio": 0.5, "focal_gamma": 2.0, "square_k": 1.0, "square_m": 1.0}
    """What is searched but does not regularize by itself: what a baseline trains with."""
    BELOW_ONE: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "dropout_input", "dropout_conv", "dropout_dense", "label_smoothing", "momentum"}
    )

    @field_validator("learning_rate", "momentum", mode="before")
    @classmethod
    def _fixed_elsewhere(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int | float):
            raise ValueError(f"a fixed one is training.{info.field_name}; here it is a range that is searched")  # noqa: TRY004
        return value

    @model_validator(mode="after")
    def _in_bounds(self) -> SearchSpec:
        for name in (*self.REGULARIZERS, *self.OTHERS, "learning_rate", "momentum"):
            value = getattr(self, name)
            if isinstance(value, Number):
                self._check_number(name, value)
            top = value.high if isinstance(value, Number) else value or 0.0
            if top < 0:
                raise ValueError(f"{name} = {top:g} must not be negative")
            if name in self.BELOW_ONE and top >= 1:
                raise ValueError(f"{name} reaches {top:g}; it must stay below 1")
            if name == "l1_ratio" and top > 1:
                raise ValueError(f"l1_ratio reaches {top:g}; it must not exceed 1")
        if self.elastic_net == 0.0 and self.l1_ratio != self.OTHERS["l1_ratio"]:
            raise ValueError("l1_ratio goes with elastic_net")
        if self.elastic_net != 0.0 and (self.l1 != 0.0 or self.l2 != 0.0):
            raise ValueError("elastic_net stands for l1 and l2; give it or them")
        for name, options in self.choices.items():
            if len(set(options)) != len(options):
                raise ValueError(f"{name} names a choice twice")
        self._check_penalty()
        return self

    def _check_penalty(self) -> None:
        if self.penalty is None:
            return
        if "none" not in self.penalty:
            raise ValueError("penalty: the baseline trains without any, so the choices need 'none'")
        if self.elastic_net != 0.0:
            raise ValueError("penalty chooses between l1 and l2; elastic_net is both")
        for name in ("l1", "l2"):
            if any(name in choice for choice in self.penalty) == (getattr(self, name) == 0.0):
                raise ValueError(f"penalty and {name} go together: a choice that has {name}, and its strength")

    def _check_number(self, name: str, searched: Number) -> None:
        if name == "learning_rate" and searched.nearest(0.0) == 0.0:
            raise ValueError("learning_rate: it must be greater than 0")
        if name not in self.REGULARIZERS and (searched.zero_below is not None or searched.none_above is not None):
            raise ValueError(f"{name}: zero_below and none_above are for regularizers")
        if isinstance(searched, ChoicesSpec):
            if name in self.REGULARIZERS and searched.sampled_zero is None and not self._owned_by_penalty(name):
                raise ValueError(f"{name}: the baseline trains without it, so the list needs 0")
            return
        if name == "max_norm" and searched.none_above is None:
            raise ValueError("max_norm: the baseline trains without it, so the range needs none_above")
        if name != "max_norm" and searched.none_above is not None:
            raise ValueError(f"{name}: none_above is for max_norm; here it is zero_below")
        if name in self.REGULARIZERS and searched.sampled_zero is None and not self._owned_by_penalty(name):
            raise ValueError(f"{name}: the baseline trains without it, so the range needs zero_below (or low = 0)")

    @property
    def loss_values(self) -> tuple[object, ...]:
        """What says which function a loss is: its values compare only where all of these are the same."""
        return (*self.losses, *(getattr(self, name) for name in OWNERS))

    @cached_property
    def ranges(self) -> dict[str, Number]:
        """The numbers that are searched, by name, the weights of mixtures (`mix_LOSS`) included."""
        found = {name: v for name in type(self).model_fields if isinstance(v := getattr(self, name), Number)}
        return found | {f"mix_{loss}": RangeSpec(low=0.0, high=1.0) for loss in self.mixed_losses}

    @property
    def choices(self) -> dict[str, list[str]]:
        """What is chosen from a list of names: the penalty and the loss, where they are."""
        found: dict[str, list[str]] = {"penalty": [*self.penalty]} if self.penalty is not None else {}
        return found | ({"loss": list(self.loss)} if isinstance(self.loss, list) else {})

    def has(self, name: str, choices: Mapping[str, Any]) -> bool:
        """Whether a trial that chose so has a number; what is not among the choices is as the study fixes it."""
        loss, penalty = choices.get("loss", self.losses[0]), choices.get("penalty")
        if self._owned_by_penalty(name):
            return penalty is not None and name in penalty.split(" + ")
        if name in OWNERS:
            return OWNERS[name] in {term.loss for term in loss_terms(loss)}
        if name.startswith("mix_"):
            terms = loss_terms(loss)
            return len(terms) > 1 and any(term.loss == name.removeprefix("mix_") and term.weight is None for term in terms)
        return True

    @cached_property
    def conditional(self) -> list[str]:
        """The numbers that only some trials have: those that chose what they go with."""
        combinations = [dict(zip(self.choices, chosen, strict=True)) for chosen in itertools.product(*self.choices.values())]
        return [name for name in self.ranges if not all(self.has(name, chosen) for chosen in combinations)]

    def _owned_by_penalty(self, name: str) -> bool:
        return self.penalty is not None and name in ("l1", "l2")

    @property
    def losses(self) -> list[str]:
        """The losses that are searched, or the one that is fixed."""
        return list(self.loss) if isinstance(self.loss, list) else [self.loss]

    @property
    def mixed_losses(self) -> list[str]:
        """The losses whose weights in mixtures are searched."""
        open_terms = [term.loss for text in self.losses for term in loss_terms(text) if term.weight is None and "+" in text]
        return list(dict.fromkeys(open_terms))
