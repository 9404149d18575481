# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the settings into the live system before anything else of ours starts: who may log in, keyboard, time zone.

Everything goes into the live system's own file tree, which is memory. Nothing here needs the network.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.config import Config
from coldmig_agent.interfaces import read_text
from coldmig_agent.text import clean

ZONES = "usr/share/zoneinfo"
SSH_SETTINGS = "run/coldmig/ssh.env"
BANNER = "run/coldmig/banner"
PROBLEMS = "run/coldmig/settings.problems"
_LOADKEYS_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class File:
    """A file to write, below the root of the live system; ``link``: a symbolic link to there instead."""

    path: str
    content: str = ""
    mode: int = 0o644
    link: str | None = None


def shadow_with(shadow: str, hashed: str) -> str:
    """shadow(5) with another password for root. A file without root gets a line for it."""
    lines = shadow.splitlines()
    fields = next((line.split(":") for line in lines if line.startswith("root:")), ["root", "", *[""] * 7])
    fields[1] = hashed
    return "\n".join([":".join(fields), *(line for line in lines if not line.startswith("root:"))]) + "\n"


def ssh_options(config: Config) -> str:
    """Options of the SSH server (dropbear(8)): no passwords without a hash, the banner where there is one."""
    options = [] if config.access.root_password_hash is not None else ["-s"]
    if config.banner:
        options += ["-b", f"/{BANNER}"]
    return " ".join(options)


def files(config: Config, shadow: str) -> list[File]:
    """What these settings need. ``shadow`` is the live system's /etc/shadow as it is."""
    wanted = []
    if config.access.root_password_hash is not None:
        wanted.append(File("etc/shadow", shadow_with(shadow, config.access.root_password_hash), 0o600))
    if config.access.ssh_keys:
        wanted.append(File("root/.ssh/authorized_keys", "".join(f"{key}\n" for key in config.access.ssh_keys), 0o600))
    if config.access.ssh:
        # The unit of the SSH server starts only where this file is.
        wanted.append(File(SSH_SETTINGS, f"COLDMIG_SSH_OPTIONS={ssh_options(config)}\n", 0o600))
    if config.banner:
        wanted.append(File(BANNER, config.banner + "\n"))
    if config.time.zone is not None:
        wanted.append(File("etc/localtime", link=f"/{ZONES}/{config.time.zone}"))
        wanted.append(File("etc/timezone", config.time.zone + "\n"))
    return wanted


def _write(root: Path, file: File) -> None:
    path = root / file.path
    private = not file.mode & 0o077
    path.parent.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if file.link is not None:
        path.symlink_to(file.link)
        return
    path.touch(mode=file.mode)
    path.write_text(file.content, encoding="utf-8")
    path.chmod(file.mode)


def load_keymap(name: str) -> str:
    """Set the keyboard of the screen's consoles. The answer is a problem, or nothing."""
    try:
        done = subprocess.run(
            ["loadkeys", "--quiet", "--unicode", "--console=/dev/tty1", name],
            capture_output=True, text=True, timeout=_LOADKEYS_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"keyboard {name}: {error}"
    said = done.stderr.strip().splitlines()
    return f"keyboard {name}: {said[-1] if said else f'status {done.returncode}'}" if done.returncode else ""


def apply(config: Config, root: Path) -> Sequence[str]:
    """Write the files and load the keymap; sentences on what did not work."""
    problems = []
    shadow = root / "etc/shadow"
    for file in files(config, shadow.read_text(encoding="utf-8") if shadow.exists() else ""):
        if file.link is not None and not (root / file.link.lstrip("/")).exists():
            problems.append(f"time zone {config.time.zone}: the live system does not know it; times are UTC")
            continue
        try:
            _write(root, file)
        except OSError as error:
            problems.append(f"/{file.path}: {error.strerror}")
    if config.keyboard is not None and (problem := load_keymap(config.keyboard)):
        problems.append(problem)
    return problems


def note_problems(problems: Sequence[str], root: Path) -> None:
    """Keep what did not work for the agent, which starts later and shows it."""
    path = root / PROBLEMS
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("".join(f"{clean(problem, 400)}\n" for problem in problems), encoding="utf-8")


def noted_problems(root: Path = Path("/")) -> Sequence[str]:
    """What :func:`note_problems` kept."""
    return (read_text(root / PROBLEMS, 1 << 16) or "").splitlines()
