"""The base of every table of a study file, and the numbers that can be searched."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class Section(BaseModel):
    """A table of a study file: frozen, no unknown keys, no numbers from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0.0, le=1.0)]


class RangeSpec(Section):
    """A range of numbers, some of which may stand for exactly 0, 'not applied', which a log range cannot hold.

    A sampled value under `zero_below` trains with 0; so does one over `none_above`, for limits like a max-norm, which are
    weaker the larger they are.
    """

    low: float = Field(ge=0)
    high: float
    log: bool = False
    zero_below: float | None = None
    none_above: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low == 0:
            raise ValueError("a log range cannot begin at 0; give low > 0, and zero_below for 'none at all'")
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

    def effective(self, sampled: float) -> float:
        """Return the value that a sampled one trains with."""
        below = self.zero_below is not None and sampled < self.zero_below
        above = self.none_above is not None and sampled > self.none_above
        return 0.0 if below or above else sampled

    def sampled(self, effective: float) -> float | None:
        """Return a value of the range that trains with this one; None if none does."""
        if effective == 0.0 and self.sampled_zero is not None:
            return self.sampled_zero
        inside = self.low <= effective <= self.high and self.effective(effective) == effective
        return effective if inside else None


UNION_TAGS = frozenset({"<range>", "<number>", "<choices>", "<choice>", "<table>", "<name>", "<list>", "<whole number>", "<share>"})
"""Which member of a union a value is read as, by its TOML type; so a mistake is told once, for the member that was meant."""

Searched = Annotated[
    Annotated[RangeSpec, Tag("<range>")] | Annotated[float, Tag("<number>")],
    Discriminator(lambda value: "<range>" if isinstance(value, dict | RangeSpec) else "<number>"),
]
"""A number (fixed) or a table (a range that is searched)."""
