"""Workers of a Ray cluster of two nodes on this machine, real processes of Ray's: a node that goes loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sweeper
from storage import queries
from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra `ray` is not installed")


@pytest.fixture
def cluster() -> Iterator[Any]:
    two = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield two
    import ray

    ray.shutdown()
    two.shutdown()


def test_a_node_that_goes_half_way_loses_nothing(
    tiny: StudySpec, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    second = cluster.add_node(num_cpus=1)
    spec = with_changes(tiny, trials=40, array={"width": 4})
    gone: list[int] = []

    def remove(progress: Any) -> None:
        if progress.finished >= 12 and not gone:
            gone.append(progress.epochs)
            cluster.remove_node(second, allow_graceful=False)

    url = f"sqlite:///{tmp_path / 'x.db'}"
    result = sweeper.run_study(spec, storage=url, runs=tmp_path, cluster=cluster.address, on_progress=remove)
    assert gone
    assert result.summary is not None
    assert len(result.summary.devices) <= 2
    assert result.trials.index.tolist() == list(range(40))
    assert set(result.trials["state"]) <= {"complete", "pruned"}
    curves = queries.curves(result.results.engine, result.results.study._study_id)
    for number, epochs in result.trials["epochs"].items():
        assert curves.loc[(number, 0)].index.tolist() == list(range(1, epochs + 1))


def test_what_the_worker_refuses_is_the_users_to_mend(tiny: StudySpec, cluster: Any, tmp_path: Path) -> None:
    spec = with_changes(tiny, data={"name": f"npz:{tmp_path / 'nothing.npz'}"})
    with pytest.raises(UsageError, match=r"nothing\.npz"):
        sweeper.run_study(spec, storage=f"sqlite:///{tmp_path / 'x.db'}", runs=tmp_path, cluster=cluster.address)


def test_an_address_where_nothing_answers_is_one_line(tiny: StudySpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:1: no Ray cluster answers"):
        sweeper.run_study(tiny, storage=f"sqlite:///{tmp_path / 'x.db'}", runs=tmp_path, cluster="127.0.0.1:1")
