# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
import ssl
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import text

from coldmig_gateway import config, pki
from coldmig_gateway.store.database import Database

Run = Callable[..., tuple[int, str, str]]
TOKEN = r"cm1_pro_[A-Za-z0-9_-]{43}\n"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_init_makes_a_site_and_prints_the_token_alone(run: Run, tmp_path: Path) -> None:
    state = tmp_path / "state"
    code, out, _ = run(
        "init", "--state-dir", str(state), "--name", "gw.example", "--name", "10.0.2.2", "--port", "8443"
    )
    assert code == 0
    assert re.fullmatch(TOKEN, out)
    settings = config.load(tmp_path / "gateway.toml")
    assert (settings.names, settings.port, settings.public_url) == (
        ["gw.example", "10.0.2.2"],
        8443,
        "https://gw.example:8443",
    )
    assert {path.name: _mode(path) for path in (state / "pki").iterdir()} == {
        "ca.key": 0o600,
        "ca.pem": 0o644,
        "server.key": 0o600,
        "server.pem": 0o644,
    }
    assert [_mode(path) for path in (state, state / "pki", state / "staging")] == [0o700] * 3
    assert _mode(state / "gateway.db") == 0o600
    # OpenSSL itself accepts the chain and the key.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state / "pki" / "server.pem", state / "pki" / "server.key")
    assert pki.certificate_names(_certificate(state / "pki" / "server.pem")) == {"gw.example", "10.0.2.2"}


def test_a_second_init_says_what_is_there_and_prints_no_token(run: Run, site: Path) -> None:
    before = {path: path.read_bytes() for path in (site / "pki").iterdir()}
    code, out, err = run("init")
    assert (code, out) == (0, "")
    assert err.count("exists already") == 5
    assert {path: path.read_bytes() for path in (site / "pki").iterdir()} == before


def test_another_token_is_made_on_demand_only(run: Run, site: Path) -> None:
    code, out, _ = run("init", "--new-token")
    assert code == 0
    assert re.fullmatch(TOKEN, out)


def test_a_token_file_is_for_its_owner_only(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "provider.token"
    code, out, _ = run("init", "--state-dir", str(tmp_path / "s"), "--name", "a.example", "--token-file", str(path))
    assert (code, out) == (0, "")
    assert _mode(path) == 0o600
    assert re.fullmatch(TOKEN, path.read_text())


def test_a_token_that_could_not_be_written_is_not_kept(run: Run, tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "provider.token"
    code, _, err = run("init", "--state-dir", str(tmp_path / "s"), "--name", "a.example", "--token-file", str(nowhere))
    assert code == 1
    assert "missing" in err
    code, out, _ = run("init")
    assert code == 0
    assert re.fullmatch(TOKEN, out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a.example"], "state_dir"),
        (["--state-dir", "/tmp/x"], "names"),
        (["--state-dir", "relative", "--name", "a"], "state_dir.*'relative'.*absolute"),
        (["--state-dir", "/tmp/x", "--name", "a b"], "names.*'a b'.*DNS name or an IP address"),
        (["--state-dir", "/tmp/x", "--name", "a", "--port", "70000"], "port.*70000.*65535"),
        (["--state-dir", "/tmp/x", "--name", "a", "--listen", "everywhere"], "listen.*'everywhere'.*IP address"),
        (["--state-dir", "/tmp/x", "--name", "a", "--url", "http://a"], "url.*'http://a'.*https://HOST"),
        (["--state-dir", "/tmp/x", "--name", "a", "--url", "https://a/path"], "url.*without a path"),
        (
            ["--state-dir", "/tmp/x", "--name", "a", "--database-url", "mysql://h/d"],
            "database_url.*sqlite or postgresql",
        ),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_made(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("init", *arguments)
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_contradicts_the_settings_is_refused(run: Run, site: Path) -> None:
    code, _, err = run("init", "--port", "9")
    assert code == 1
    assert "port is 443" in err
    assert run("init", "--port", "443", "--name", "LOCALHOST", "--name", "127.0.0.1")[0] == 0


def test_a_setting_that_is_unknown_is_refused(run: Run, site: Path, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text() + "prot = 8443\n")
    code, _, err = run("token", "list")
    assert code == 1
    assert "prot" in err


def test_the_server_certificate_follows_the_names_and_the_ca_stays(run: Run, site: Path, tmp_path: Path) -> None:
    ca, server = (site / "pki" / "ca.pem").read_bytes(), (site / "pki" / "server.pem").read_bytes()
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text().replace('"localhost"', '"localhost", "new.example"'))
    assert run("init")[0] == 0
    assert (site / "pki" / "ca.pem").read_bytes() == ca
    assert (site / "pki" / "server.pem").read_bytes() != server
    leaf = _certificate(site / "pki" / "server.pem")
    assert pki.certificate_names(leaf) == {"localhost", "127.0.0.1", "new.example"}
    leaf.verify_directly_issued_by(_certificate(site / "pki" / "ca.pem"))


def test_the_server_certificate_is_renewed_before_it_expires(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["localhost", "127.0.0.1"]
    assert not pki.ensure_server(site / "pki", names)
    real = pki.now
    monkeypatch.setattr(pki, "now", lambda: real() + pki.SERVER_LIFE * 2 / 3 + timedelta(days=1))
    assert pki.ensure_server(site / "pki", names)
    assert not pki.ensure_server(site / "pki", names)


def test_a_certificate_of_the_site_s_own_is_left_alone(run: Run, tmp_path: Path, site: Path) -> None:
    path, pki_dir = tmp_path / "gateway.toml", site / "pki"
    path.write_text(path.read_text() + f'certificate = "{pki_dir}/server.pem"\n')
    code, _, err = run("init")
    assert code == 1
    assert "must be set together" in err
    path.write_text(
        path.read_text() + f'certificate_key = "{pki_dir}/server.key"\nca_certificate = "{pki_dir}/ca.pem"\n'
    )
    code, _, err = run("init")
    assert code == 0
    assert "used as it is" in err


@pytest.mark.parametrize("command", [["init"], ["serve"], ["token", "list"]])
def test_a_database_of_a_newer_version_is_refused(run: Run, site: Path, tmp_path: Path, command: list[str]) -> None:
    database = Database(config.load(tmp_path / "gateway.toml").database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    code, _, err = run(*command)
    assert code == 1
    assert re.search("newer version|has not been set up by this version", err)


@pytest.mark.parametrize("command", [["serve"], ["token", "list"], ["verify", "x"]])
def test_without_settings_the_way_to_them_is_told(run: Run, command: list[str]) -> None:
    code, _, err = run(*command)
    assert code == 1
    assert "init --name" in err


def test_init_takes_the_settings_of_staging(run: Run, tmp_path: Path) -> None:
    options = ["--staging-reserve-bytes", "1048576", "--keep-ended-hours", "24"]
    assert run("init", "--state-dir", str(tmp_path / "state"), "--name", "gw.example", *options)[0] == 0
    settings = config.load(tmp_path / "gateway.toml")
    assert (settings.staging_reserve_bytes, settings.keep_ended_hours) == (1 << 20, 24)
    assert (settings.silent_seconds, settings.janitor_seconds) == (120, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [("staging_reserve_bytes", -1), ("keep_ended_hours", 0), ("silent_seconds", 4), ("janitor_seconds", 0)],
)
def test_a_setting_out_of_bounds_is_named(name: str, value: int) -> None:
    values: dict[str, object] = {"state_dir": "/x", "names": ["gw.example"], name: value}
    with pytest.raises(config.ConfigError, match=f"{name} = {value}"):
        config.check(values, where="gateway.toml")
