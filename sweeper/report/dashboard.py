"""The key figures of a study inside optuna-dashboard, beside its own."""

from __future__ import annotations

import optuna

from sweeper.report.accuracy_figure import accuracy_picture
from sweeper.report.losses import loss_picture
from sweeper.report.snapshot import Snapshot


def show_in_dashboard(study: optuna.Study, found: Snapshot) -> None:
    """Store accuracy against each regularizer, and the losses, where optuna-dashboard looks for plotly figures."""
    from optuna_dashboard import save_plotly_graph_object

    key = [accuracy_picture(found, name) for name in found.searched]
    key += [loss_picture(found)] if len(found.spec.search.losses) > 1 else []
    for picture in key:
        save_plotly_graph_object(study, picture.figure.update_layout(title=picture.question), graph_object_id=picture.name)
