import pytest


@pytest.fixture
def measure_memory():
    """Of this project; it has nothing to do with anybody else's."""
    return lambda text: len(text)


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pytest_collection_modifyitems(items):
    items.reverse()
