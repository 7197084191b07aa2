"""Failures are shown as they come: a run takes long, and the machine in which it runs is gone at its end."""

import pytest


class _Shower:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"{report.nodeid}: {report.longreprtext[-4000:]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Shower(config), "show-failures-at-once")
