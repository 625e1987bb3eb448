"""All figures of a study, in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.report.accuracy_figure import accuracy_picture
from sweeper.report.choices import FEWEST, importance_picture, parallel_picture
from sweeper.report.curves import curve_picture
from sweeper.report.history import history_pictures, pruning_picture
from sweeper.report.losses import loss_picture
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot
from sweeper.report.surface import pairs, surface_picture
from sweeper.report.timeline import timeline_picture


def pictures(study: Snapshot) -> Iterator[Picture]:
    """Yield the figures that a study has something to show in."""
    if study.trials["state"].eq("waiting").all():
        return
    for name in study.searched:
        yield accuracy_picture(study, name)
    if len(study.spec.search.losses) > 1:
        yield loss_picture(study)
    if len(study.curves):
        yield curve_picture(study)
    for x, y in pairs(study):
        yield surface_picture(study, x, y)
    if len(study.searched) + (len(study.spec.search.losses) > 1) > 1:
        if len(study.finished) >= FEWEST:
            yield importance_picture(study)
        yield parallel_picture(study)
    yield from history_pictures(study)
    if study.spec.pruner.name != "none" or study.spec.pruner.patience:
        yield pruning_picture(study)
    yield timeline_picture(study)
