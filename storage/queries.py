"""What a database holds, as pandas frames. Read only."""

from __future__ import annotations

import pandas as pd
from optuna.storages import BaseStorage


def trials(storage: BaseStorage, study_id: int) -> pd.DataFrame:
    """Return a row per trial, indexed by its number.

    Columns: `state`, `value` (NaN where there is none), `last_value` (the last one reported), `epochs` (how many were
    reported), `started` and `finished` (naive local time), `param_NAME` and `attr_NAME`.
    """
    rows = []
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        steps = trial.intermediate_values
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value,
                "last_value": steps[max(steps)] if steps else None,
                "epochs": len(steps),
                "started": trial.datetime_start,
                "finished": trial.datetime_complete,
                **{f"param_{name}": value for name, value in trial.params.items()},
                **{f"attr_{name}": value for name, value in trial.user_attrs.items()},
            }
        )
    columns = ["number", "state", "value", "last_value", "epochs", "started", "finished"]
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    return frame.astype({"value": float, "last_value": float}).set_index("number").sort_index()
