"""What the packages' tests share: one thread, and the core's components with the package's."""

import os
from collections.abc import Iterator
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from speechkit.plugins import Registry, using

torch.set_num_threads(1)

HERE = Path(__file__).parent
LOADED = {"residuals": "residuals,norms,activations"}
"""The plugins for the tests of a package that needs others too."""


def package_of(path: Path) -> str:
    """The package whose test this is."""
    return path.relative_to(HERE).parts[0]


@pytest.fixture(autouse=True, scope="module")
def only_the_package(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process's registry has the core and the package, and is as it was before afterwards."""
    package = package_of(request.path)
    with pytest.MonkeyPatch.context() as patch:
        # for processes that tests start
        patch.setenv("SPEECHKIT_PLUGINS", LOADED.get(package, package))
        with using(Registry()):
            yield
