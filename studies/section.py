"""The base of every table of a study file, and the numbers that can be searched."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator


class Section(BaseModel):
    """A table of a study file: frozen, no unknown keys, no numbers from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0.0, le=1.0)]


class RangeSpec(Section):
    """A range of numbers, some of which may stand for exactly 0, 'not applied', which a log range cannot hold.

    A sampled value under `zero_below` trains with 0; so does one over `none_above`, for limits like a max-norm, which are
    weaker the larger they are. With a `step`, only `low`, `low + step`, … up to `high` are sampled.
    """

    low: float = Field(ge=0)
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)
    zero_below: float | None = None
    none_above: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low == 0:
            raise ValueError("a log range cannot begin at 0; give low > 0, and zero_below for 'none at all'")
        if self.step is not None:
            if self.log:
                raise ValueError("a log range has no step; give a list of values")
            if (Decimal(str(self.high)) - Decimal(str(self.low))) % Decimal(str(self.step)):  # as Optuna counts
                raise ValueError(f"high ({self.high:g}) is not a whole number of steps ({self.step:g}) above low ({self.low:g})")
        for name in ("zero_below", "none_above"):
            bound = getattr(self, name)
            if bound is not None and not self.low < bound < self.high:
                raise ValueError(f"{name} ({bound:g}) must lie between low ({self.low:g}) and high ({self.high:g})")
        if self.zero_below is not None and self.none_above is not None:
            raise ValueError("zero_below and none_above exclude each other")
        return self

    @property
    def sampled_zero(self) -> float | None:
        """A value of the range that trains with exactly 0; None if there is none."""
        if self.none_above is not None:
            return self.high
        return self.low if self.low == 0 or self.zero_below is not None else None

    @property
    def middle(self) -> float:
        """What lies half-way, by the range's scale."""
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2

    @property
    def grid(self) -> list[float] | None:
        """All values that can be sampled; None if they are not countable."""
        if self.step is None:
            return None
        return [min(self.low + i * self.step, self.high) for i in range(round((self.high - self.low) / self.step) + 1)]

    def nearest(self, value: float) -> float:
        """Return the value of the range that is nearest to one."""
        inside = min(max(value, self.low), self.high)
        return min(self.grid, key=lambda other: abs(other - inside)) if self.grid else inside

    def effective(self, sampled: float) -> float:
        """Return the value that a sampled one trains with."""
        below = self.zero_below is not None and sampled < self.zero_below
        above = self.none_above is not None and sampled > self.none_above
        return 0.0 if below or above else sampled

    def sampled(self, effective: float) -> float | None:
        """Return a value of the range that trains with this one; None if none does."""
        if effective == 0.0 and self.sampled_zero is not None:
            return self.sampled_zero
        inside = self.low <= effective <= self.high and self.effective(effective) == effective and self._on_grid(effective)
        return effective if inside else None

    def _on_grid(self, value: float) -> bool:
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8  # Optuna's own tolerance


class ChoicesSpec(RootModel[Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]]):
    """A list of numbers, one of which a trial trains with; 0 stands for 'not applied'. It can be asked what a range can."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _once_each(self) -> ChoicesSpec:
        if len(set(self.root)) != len(self.root):
            raise ValueError("a choice is named twice")
        return self

    @property
    def low(self) -> float:
        """The least value that is not 0, if there is one."""
        return min(filter(None, self.root), default=0.0)

    @property
    def high(self) -> float:
        """The greatest value."""
        return max(self.root)

    @property
    def log(self) -> bool:
        """Whether an axis of these values is best a logarithmic one: over two decades and more."""
        return self.high >= 100 * self.low > 0

    zero_below: ClassVar[None] = None
    none_above: ClassVar[None] = None

    @property
    def sampled_zero(self) -> float | None:
        """0, if it is among the values."""
        return 0.0 if 0.0 in self.root else None

    @property
    def middle(self) -> float:
        """The median value."""
        return sorted(self.root)[len(self.root) // 2]

    @property
    def grid(self) -> list[float]:
        """All values."""
        return self.root

    def nearest(self, value: float) -> float:
        """Return the value that is nearest to one."""
        return min(self.root, key=lambda other: abs(other - value))

    def effective(self, sampled: float) -> float:
        """Return the value that a sampled one trains with: itself."""
        return sampled

    def sampled(self, effective: float) -> float | None:
        """Return the value, if it is among those of the list."""
        return effective if effective in self.root else None


Number = RangeSpec | ChoicesSpec
"""A number that is searched."""

UNION_TAGS = frozenset({"<range>", "<number>", "<choices>", "<choice>", "<table>", "<name>", "<list>", "<whole number>", "<share>"})
"""Which member of a union a value is read as, by its TOML type; so a mistake is told once, for the member that was meant."""


def _kind(value: object) -> str:
    if isinstance(value, list | ChoicesSpec):
        return "<choices>"
    return "<range>" if isinstance(value, dict | RangeSpec) else "<number>"


Searched = Annotated[
    Annotated[RangeSpec, Tag("<range>")] | Annotated[ChoicesSpec, Tag("<choices>")] | Annotated[float, Tag("<number>")],
    Discriminator(_kind),
]
"""A number (fixed), a table (a range that is searched) or a list (a choice)."""
SearchedOnly = Annotated[
    Annotated[RangeSpec, Tag("<range>")] | Annotated[ChoicesSpec, Tag("<choices>")],
    Discriminator(lambda value: "<choices>" if isinstance(value, list | ChoicesSpec) else "<range>"),
]
"""The same, where a fixed number stands elsewhere."""
