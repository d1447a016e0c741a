"""What tests of clusters share: a cluster of two workers, three batches, and the command that corrects them.

The cluster is one for all files: their tests are of one group.
"""

from __future__ import annotations

import pytest
from clusters import cluster
from distributed import Client
from helpers import make_batches

from mnndask.cli.main import main

BATCHES = make_batches((300, 350, 250))


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def client(two_workers):
    with Client(two_workers.address) as made:
        made.wait_for_workers(2, timeout=60)
        yield made


def run(words):
    """Exit status of the command."""
    with pytest.raises(SystemExit) as end:
        main(["correct", *words])
    return end.value.code or 0
