"""The real model, and one server of vLLM that all tests which only ask it something share."""

import pytest

from affectome.corpus.writers.serving import serve
from tests.project import kept_weights


@pytest.fixture(scope="session")
def weights():
    return kept_weights()


@pytest.fixture(scope="session")
def served(weights, tmp_path_factory):
    with serve(weights, tmp_path_factory.mktemp("served") / "vllm.log") as served:
        yield served
