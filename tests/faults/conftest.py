# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the fault matrix: real gateways, real agents, and a link between them that obeys."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.lab import Lab
from support.gateway import Gateway
from support.namespaces import Cable
from support.relay import Relay

_serial = itertools.count(1)


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for all tests that leave it alive and well."""
    with Gateway(tmp_path_factory.mktemp("g")).init().start() as site:
        site.activate()
        yield site


@pytest.fixture
def lab(shared_gateway: Gateway, tmp_path: Path) -> Iterator[Lab]:
    """The shared gateway, for a test that leaves it alive and well."""
    with Lab(shared_gateway, tmp_path, f"fault-{os.getpid()}-{next(_serial)}") as found:
        yield found


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A gateway that the test may kill."""
    with Gateway(tmp_path / "g").init().start() as site, Lab(site, tmp_path, "fault") as found:
        site.activate()
        yield found


@pytest.fixture
def relay(shared_gateway: Gateway) -> Iterator[Relay]:
    """The way to the shared gateway."""
    with Relay(shared_gateway.port) as found:
        yield found


@pytest.fixture
def own_relay(own_lab: Lab) -> Iterator[Relay]:
    """The way to the test's own gateway."""
    with Relay(own_lab.gateway.port) as found:
        yield found


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Two network namespaces and a cable."""
    with Cable() as found:
        yield found
