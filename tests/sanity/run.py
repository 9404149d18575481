#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ``ansible-test sanity`` on the collection, also where the bootstrap script of pip cannot be downloaded.

ansible-test makes its own virtual environments and starts each with a ``get-pip`` script which it downloads from the
build servers of the Ansible project, and from nowhere else. A machine that reaches a package index only is stuck there.
This runner puts a stand-in at the place where ansible-test keeps the downloaded script
(``~/.ansible/test/cache/get_pip_<version>.py``) if there is none yet: it runs the very pip version that was asked for,
straight out of its wheel, which pip itself can fetch from the configured index.

Usage: ``run.py [argument of ansible-test sanity …]``, with the interpreter of the environment in which ansible-core is.
The exit status is that of ansible-test.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

COLLECTION = Path(__file__).resolve().parents[2] / "collections/ansible_collections/cda/coldmig"

STAND_IN = '''\
"""Stands in for get-pip {version}: runs that pip out of its wheel (written by tests/sanity/run.py of cda.coldmig)."""
import runpy
import sys

# Options of get-pip that pip itself does not know: they say what not to install beside pip, and nothing is.
packages = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
sys.path.insert(0, {wheel!r})
sys.argv = ["pip", "install", *packages]
# ansible-test runs this as a module named as this file; pip must find itself under its own name.
runpy.run_module("pip", run_name="__main__", alter_sys=True)
'''


def bootstrap_version() -> str:
    """The version of pip that this release of ansible-test starts its environments with (its table is private)."""
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{sys.executable} has no ansible-test: run this with the Python that has ansible-core")
    source = Path(next(iter(spec.submodule_search_locations))) / "_internal/python_requirements.py"
    match = re.search(r"""\bpip=['"](?P<version>[0-9.]+)['"]""", source.read_text(encoding="utf-8"))
    if match is None:
        raise SystemExit(f"cannot find out in {source} which pip ansible-test bootstraps; adapt {Path(__file__).name}")
    return match["version"]


def supply_bootstrap(version: str) -> None:
    """Put the stand-in into ansible-test's cache, unless the real script (or an earlier, whole stand-in) is there."""
    # ansible-test looks under HOME and nowhere else.
    cache = Path.home() / ".ansible/test/cache"
    script = cache / f"get_pip_{version.replace('.', '_')}.py"
    wheel = cache / f"pip-{version}-py3-none-any.whl"
    if script.exists() and (wheel.exists() or str(wheel) not in script.read_text(encoding="utf-8")):
        return
    cache.mkdir(parents=True, exist_ok=True)
    if not wheel.exists():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*download, "--dest", str(cache), f"pip=={version}"], check=True)
    fresh = script.with_suffix(f".{os.getpid()}")
    fresh.write_text(STAND_IN.format(version=version, wheel=str(wheel)), encoding="utf-8")
    fresh.replace(script)


def main() -> int:
    supply_bootstrap(bootstrap_version())
    # The directory of this interpreter goes first, so that ansible-test finds its own ansible-core and not another one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["ansible-test", "sanity", "--python", python, "--requirements", "--color=no", *sys.argv[1:]]
    return subprocess.run(command, cwd=COLLECTION, env={**os.environ, "PATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
