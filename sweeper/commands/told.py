"""Tells the hooks of a command what came of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from studies.spec import StudySpec
from sweeper.errors import StudyInUse, SweeperError
from sweeper.notify import Hooks, Outcome

if TYPE_CHECKING:
    from sweeper.api import StudyResult


@contextmanager
def told(
    spec: StudySpec, hooks: Hooks, harmless: tuple[type[SweeperError], ...] = (StudyInUse,)
) -> Iterator[Callable[[StudyResult], None]]:
    """Tell the hooks of a failure, and, when called, of a study that this call has completed.

    A stop is not told, nor what is `harmless`: that somebody else leads the study, which is no worse for it.
    """

    def tell(result: StudyResult) -> None:
        if result.interrupted or not (result.summary or result.confirmed):
            return
        counts, ranked = result.results.counts(), result.results.ranked
        best = result.results.chosen if len(ranked) else None
        hooks.tell(
            Outcome(
                spec.name, "complete", (result.summary.ended or "") if result.summary else "", trials=counts,
                best_trial=best.trial if best else None, best_validation_accuracy=best.accuracy if best else None,
                best_value=best.value if best else None, objective=spec.objective.name,
            )
        )  # fmt: skip

    try:
        yield tell
    except harmless:
        raise
    except Exception as error:
        hooks.tell(Outcome(spec.name, "failed", str(error) if isinstance(error, SweeperError) else type(error).__name__))
        raise
