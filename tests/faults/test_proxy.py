# SPDX-License-Identifier: GPL-3.0-or-later
"""A real agent that reaches its site only through a real proxy process, which wants a user name and a password.

Nobody but the proxy can resolve the site's name, so whatever arrives went through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.lab import Lab
from support.agent import Agent, iso_settings
from support.connect_proxy import ConnectProxy
from support.gateway import Gateway
from support.images import MIB, random_image

SITE = "site.invalid"
USER, PASSWORD = "migration", "Pr0xy:S3cret/ü"


@pytest.fixture
def far_lab(tmp_path: Path) -> Iterator[Lab]:
    """A gateway whose certificate is for a name that this machine does not know."""
    with Gateway(tmp_path / "g", names=("127.0.0.1", SITE)).init().start() as site, Lab(site, tmp_path, "far") as lab:
        site.activate()
        yield lab


def test_everything_goes_through_a_proxy_with_a_login_and_its_password_is_seen_nowhere(
    far_lab: Lab, tmp_path: Path
) -> None:
    image, other = random_image(tmp_path / "disk.img", 8, 1), random_image(tmp_path / "other.img", 2, 2)
    with ConnectProxy(tmp_path / "proxy.log", USER, PASSWORD, {SITE: "127.0.0.1"}) as proxy:
        settings = far_lab.iso(url=f"https://{SITE}:{far_lab.gateway.port}")
        settings["site"]["proxy"] = {"url": proxy.url, "username": USER, "password": PASSWORD}
        settings["disks"] = {"leave_out": [{"serial": "image-1"}]}
        agent = far_lab.boot(settings, image, other)
        agent.wait_for("registered as migration ")
        arguments = Path(f"/proc/{agent.pid}/cmdline").read_text() + Path(f"/proc/{agent.pid}/environ").read_text()
        far_lab.assert_copied(agent, image)
        assert set(proxy.answers(200)) == {f"{SITE}:{far_lab.gateway.port}"}
        assert len(proxy.answers(200)) > 2  # the control plane's connection and several of the data plane
        assert proxy.sent() > 8 * MIB
        assert proxy.answers(407) == []
    for text in (agent.text, agent.log.read_text(), arguments, far_lab.gateway.log.read_text()):
        assert "S3cret" not in text
    machine = far_lab.migration(agent)["machine"]
    assert [disk["serial"] for disk in machine["disks"]] == ["image-0"]
    assert [(disk["serial"], disk["reason"]) for disk in machine["left_out"]] == [
        ("image-1", "left out by the settings (serial image-1)")
    ]


@pytest.fixture
def boot(lab: Lab) -> Callable[..., Agent]:
    """Boot a machine whose site nobody can reach; its ISO has this proxy."""
    image = random_image(lab.work / "disk.img", 1, 1)

    def start(proxy: ConnectProxy, **login: str) -> Agent:
        settings = iso_settings(f"https://{SITE}:8443", lab.gateway.ca.read_text())
        settings["site"]["proxy"] = {"url": proxy.url, **login}
        return lab.boot(settings, image)

    return start


@pytest.mark.parametrize(
    ("scheme", "login", "words"),
    [
        ("Basic", {"username": USER, "password": "wrong-S3cret"}, "refuses the user name 'migration' or its password"),
        ("Basic", {}, "wants a user name and a password; set them for the proxy"),
        ("NTLM", {"username": USER, "password": PASSWORD}, "wants a login by ntlm, and only Basic is possible"),
    ],
    ids=["wrong password", "no login", "another kind of login"],
)
def test_a_proxy_that_refuses_the_login_is_explained(
    boot: Callable[..., Agent], tmp_path: Path, scheme: str, login: dict[str, str], words: str
) -> None:
    with ConnectProxy(tmp_path / "proxy.log", USER, PASSWORD, {SITE: "127.0.0.1"}, scheme) as proxy:
        agent = boot(proxy, **login)
        agent.wait_for(f"the proxy 127.0.0.1:{proxy.port} {words}")
        assert proxy.answers(200) == []
    assert "S3cret" not in agent.text + agent.log.read_text()


def test_a_proxy_that_cannot_reach_the_site_is_told_from_one_that_is_not_there(
    boot: Callable[..., Agent], tmp_path: Path
) -> None:
    with ConnectProxy(tmp_path / "proxy.log", USER, PASSWORD, {SITE: "127.0.0.1"}) as proxy:
        words = f"the proxy 127.0.0.1:{proxy.port} cannot reach {SITE}:8443 (HTTP 502); is the site's address right?"
        agent = boot(proxy, username=USER, password=PASSWORD)
        agent.wait_for(words)
    agent.wait_for(f"connection refused by the proxy 127.0.0.1:{proxy.port}; is it running, and is the port right?")
