import pytest


def pytest_addoption(parser):
    parser.addoption("--backend", choices=["memory", "disk"], required=True)
    parser.addoption("--memory", action="store_true", help="an option of its own")
    parser.addoption("--cell", help="another one")
    parser.addini("memory_size", "an ini key of its own", default="8")


def pytest_configure(config):
    config.addinivalue_line("markers", "backend(name): runs on this backend only")


def pytest_collection_modifyitems(config, items):
    chosen = config.getoption("--backend")
    for item in items:
        for marker in item.iter_markers("backend"):
            if marker.args[0] != chosen:
                item.add_marker(pytest.mark.skip(reason=f"runs on {marker.args[0]}"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    outcome.get_result().sections.append(("backend", item.config.getoption("--backend")))


def pytest_terminal_summary(terminalreporter, exitstatus):
    terminalreporter.write_line(f"the backends are done with {int(exitstatus)}")
