import pytest
from store.table import keys


@pytest.fixture(scope="session")
def table(request):
    assert request.config.getini("memory_size") == "8"
    return {"x": 1}


@pytest.mark.backend("memory")
def test_in_memory(table):
    assert keys(table) == ["x"]


@pytest.mark.backend("disk")
def test_on_disk(table):
    raise AssertionError


@pytest.mark.parametrize("number", range(8))
def test_many(table, number):
    table[str(number)] = number
    assert number != 5
