"""How worker processes are started on this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from sweeper.executors.local import LocalExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize(
    ("users", "workers"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.perturb=5", "glibc.malloc.perturb=5:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_worker_asks_for_huge_pages_unless_the_user_has_settled_it(
    users: str | None, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if users is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", users)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # it names what is looked for
    others = set(multiprocessing.active_children())
    executor = LocalExecutor(warm=1)
    try:
        (worker,) = set(multiprocessing.active_children()) - others
        environment = ""
        while not environment:  # as it is for the moment in which a process becomes another program
            environment = Path(f"/proc/{worker.pid}/environ").read_text()
        environment = environment.replace("\0", ":")  # glibc cuts its settings apart in place
        assert f"GLIBC_TUNABLES={workers}:" in environment
        assert environment.count("glibc.malloc.hugetlb") == 1
        assert os.environ.get("GLIBC_TUNABLES") == users
    finally:
        executor.close()
