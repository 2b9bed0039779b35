import pytest

from gradenc_core.models.model import load_model


@pytest.fixture(scope="session")
def resnet():
    return load_model("torchvision", "resnet18", "untrained", 0, 64)
