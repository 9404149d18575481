# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage "tree": a Debian system as a tar archive, made by mmdebstrap."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run

ARCHIVE = "tree.tar.zst"
MANIFEST = "packages.tsv"
_HOOKS = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_EXCLUDED = ("doc", "man", "info", "locale", "lintian", "bash-completion", "zsh", "fish", "icons", "pixmaps", "bug")


@dataclass(frozen=True)
class TreeOptions:
    """What decides the Debian tree. ``mirror`` None: the sources of this machine, else mmdebstrap's default."""

    suite: str = "bookworm"
    mirror: str | None = None
    firmware: bool = True
    extra_packages: tuple[str, ...] = ()


def packages(options: TreeOptions) -> list[str]:
    """Names of all packages to install."""
    names = read_list("packages.txt") + (read_list("packages-firmware.txt") if options.firmware else [])
    return names + sorted(set(options.extra_packages) - set(names))


def components(options: TreeOptions) -> str:
    """Archive components that hold these packages."""
    return "main non-free-firmware" if options.firmware else "main"


def host_sources(options: TreeOptions, root: Path = Path("/etc/apt")) -> str | None:
    """This machine's deb822 sources for the suite, with the needed components; None when it has none.

    Only stanzas of the suite itself (and its -updates, -security) are taken: the machine may use other archives too.
    """
    stanzas: list[str] = []
    for path in sorted(root.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            fields = [line for line in stanza.splitlines() if line and not line.startswith("#")]
            suites = next((line.split(":", 1)[1].split() for line in fields if line.lower().startswith("suites:")), [])
            if suites and all(
                re.fullmatch(rf"{re.escape(options.suite)}(-updates|-security)?", suite) for suite in suites
            ):
                kept = [line for line in fields if not line.lower().startswith("components:")]
                stanzas.append("\n".join([*kept, f"Components: {components(options)}"]))
    return "\n\n".join(stanzas) + "\n" if stanzas else None


def build_tree(options: TreeOptions, result: Path) -> None:
    """Fill ``result`` with ``tree.tar.zst`` and the list of package versions ``packages.tsv``."""
    result.chmod(0o755)  # in unshare mode another user id reads and writes below
    manifest = result / MANIFEST
    sources = result / "apt.sources"
    mirror = [options.mirror] if options.mirror else []
    if not mirror and (text := host_sources(options)):
        sources.write_text(text, encoding="utf-8")
        mirror = [str(sources)]
    command = [
        "mmdebstrap",
        f"--mode={choose_mode()}",
        "--variant=apt",
        "--architectures=amd64",
        f"--components={components(options).replace(' ', ',')}",
        f"--include={','.join(packages(options))}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED),
        # usrmerge needs perl; usr-is-merged does nothing but satisfy the dependency.
        '--setup-hook=mkdir -p "$1/etc/apt/preferences.d" && printf "Package: usrmerge\\nPin: release *\\n'
        'Pin-Priority: -1\\n" > "$1/etc/apt/preferences.d/coldmig"',
        *([f"--hook-dir={_HOOKS}"] if _HOOKS.is_dir() else []),
        # Byte code that does not look at file times: those are all set to one moment later.
        '--customize-hook=find "$1/usr/lib/python3" "$1/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +',
        '--customize-hook=chroot "$1" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11'
        " || true",
        # Made by the kernel's package and never used; its times are those of the build.
        '--customize-hook=rm -f "$1"/boot/initrd.img*',
        options.suite,
        str(result / ARCHIVE),
        *mirror,
    ]
    run(command)
    manifest.write_text(_package_versions(result / ARCHIVE), encoding="utf-8")
    sources.unlink(missing_ok=True)


def installed(result: Path) -> list[str]:
    """Names of the packages in a tree, from its manifest."""
    lines = (result / MANIFEST).read_text(encoding="utf-8").splitlines()
    return [line.split("\t", 1)[0] for line in lines]


def choose_mode() -> str:
    """``root`` for root; else ``unshare`` where unprivileged user namespaces work."""
    if os.geteuid() == 0:
        return "root"
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False)
    if probe.returncode == 0 and Path("/etc/subuid").is_file():
        return "unshare"
    raise BuildError(
        "building the Debian tree needs root, or unprivileged user namespaces with an entry in /etc/subuid"
        " (package uidmap) for this user"
    )


def _package_versions(archive: Path) -> str:
    status = run(["tar", "--extract", "--to-stdout", "--file", archive, "./var/lib/dpkg/status"])
    rows = []
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            rows.append(f"{fields['Package']}\t{fields['Version']}")
    return "\n".join(sorted(rows)) + "\n"
