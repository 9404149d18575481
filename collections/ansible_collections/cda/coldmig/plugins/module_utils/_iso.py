# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Makes, keeps and removes the ISO of a template: its credential at the gateway and its file together.

An ISO is a file with a secret in it. So a credential that was issued and did not get into a finished file is revoked,
and one whose file is replaced or deleted is revoked as well. The secret itself leaves this module in the file only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import traceback
import typing as t
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image as image
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_netboot as netboot
from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    ColdmigError,
    HttpError,
    InputError,
    MissingLibraryError,
    StateError,
)
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, IsoCredential, Template
from ansible_collections.cda.coldmig.plugins.module_utils._iso_config import public_config

UNISSUED = "cm1_iso_" + "0" * 43
"""Stands for the credential where a configuration is checked before there is one."""


class IsoError(ColdmigError):
    """The image cannot be read or made."""


@dataclass(frozen=True)
class Wanted:
    """What the ISO shall be. ``settings`` is the configuration without site, credential and template."""

    dest: Path
    base: Path
    settings: t.Mapping[str, t.Any]
    kernel_args: t.Sequence[str]
    ttl_hours: int
    max_registrations: int | None
    force: bool
    revoke_replaced: bool
    netboot: Path | None = None


@dataclass(frozen=True)
class Held:
    """What is at the destination now: an ISO of ours, and its credential as the gateway knows it (None: not known)."""

    info: image.IsoInfo
    mode: int
    credential: IsoCredential | None

    @property
    def config(self) -> dict[str, t.Any]:
        """The configuration in its slot (an ISO of ours without one does not become a Held)."""
        return t.cast("dict[str, t.Any]", self.info.config)


@contextlib.contextmanager
def image_errors() -> t.Iterator[None]:
    """Raise our own errors for those of the image code and of the file system."""
    try:
        yield
    except image.MissingLibraryError as error:
        raise MissingLibraryError("pycdlib", traceback.format_exc()) from error
    except image.IsoImageError as error:
        raise IsoError(str(error)) from error
    except OSError as error:
        raise IsoError(f"{error.filename or 'file'}: {error.strerror or error}") from error


def fingerprint(credential: str) -> str:
    """What the gateway tells of a credential instead of the credential: the start of its SHA-256."""
    return hashlib.sha256(credential.encode()).hexdigest()[:16]


def credential_state(credential: IsoCredential | None, now: datetime) -> str:
    """``valid``, or why the credential registers no machine any more."""
    if credential is None:
        return "unknown"
    if credential["revoked_at"] is not None:
        return "revoked"
    if datetime.fromisoformat(credential["expires_at"]) <= now:
        return "expired"
    limit = credential["max_registrations"]
    if limit is not None and credential["uses"] >= limit:
        return "used up"
    return "valid"


def public_view(
    info: image.IsoInfo,
    credential: IsoCredential | None,
    files: netboot.Netboot | None = None,
    *,
    checksum: bool,
) -> dict[str, t.Any]:
    """What a module may return of an ISO: everything but the secret."""
    config = public_config(info.config or {})
    shown = None
    if credential is not None:
        shown = {
            name: credential.get(name) for name in ("id", "description", "expires_at", "max_registrations", "uses")
        }
    with image_errors():
        digest = image.iso_sha256(info.path) if checksum else None
    return {
        "path": info.path,
        "size_bytes": info.size_bytes,
        "volume_id": info.volume_id,
        "sha256": digest,
        "kernel_args": info.kernel_args,
        "config": config,
        "credential": shown,
        "netboot": files.paths() if files else None,
    }


class IsoKeeper:
    """Keeps the ISO at one destination. With *check_mode* it decides and changes nothing."""

    def __init__(self, gateway: GatewayClient, *, check_mode: bool) -> None:
        self._gateway = gateway
        self._check_mode = check_mode

    def present(self, wanted: Wanted, template: Template, *, checksum: bool) -> dict[str, t.Any]:
        """Make the ISO unless it is there as it shall be. Returns changed, diff and iso (see ``public_view``)."""
        with image_errors():
            base = image.inspect_iso(wanted.base)
            config = image.validate_config(self._configuration(wanted, template, UNISSUED))
            kernel_args = image.validate_kernel_args(wanted.kernel_args)
        _check_directory(wanted.dest)
        held = self.held(wanted.dest, foreign_allowed=wanted.force)
        differences = self._differences(held, wanted, config, kernel_args, base.volume_id)
        with image_errors():
            # Before there is a new credential, so that a directory that cannot be used costs none.
            files = _netboot_files(wanted, held.config if held else config)
        if held is not None and files is not None:
            differences.add("netboot", "present" if files.is_there() else "absent", "present")
        if held is not None and set(differences.after) <= {"mode", "netboot"}:
            if not self._check_mode:
                with image_errors():
                    if "mode" in differences.after:
                        wanted.dest.chmod(image.MODE)
                    if files is not None and "netboot" in differences.after:
                        files.write()
            view = public_view(held.info, held.credential, files, checksum=checksum)
            return {"changed": bool(differences), "diff": differences.as_diff(), "iso": view}
        if self._check_mode:
            return {"changed": True, "diff": differences.as_diff(), "iso": None}

        info, credential = self._make(wanted, template)
        if held is not None and wanted.revoke_replaced:
            self._revoke(held.config["template"]["id"], held.credential)
        with image_errors():
            files = _netboot_files(wanted, t.cast("dict[str, t.Any]", info.config))
            if files is not None:
                files.write()
        view = public_view(info, credential, files, checksum=checksum)
        return {"changed": True, "diff": differences.as_diff(), "iso": view}

    def absent(
        self, dest: Path, template: str, organization: str | None, *, force: bool, netboot_directory: Path | None = None
    ) -> dict[str, t.Any]:
        """Revoke the credential and delete the files. *template* is a name or id and must be the one in the ISO."""
        held = self.held(dest, foreign_allowed=False) if dest.exists() else None
        if held is None:
            left = self._remove_netboot(netboot_directory, dest)
            before = {"netboot": "present"} if left else {}
            return {"changed": left, "diff": {"before": before, "after": {}}, "iso": None}
        known = held.config["template"]
        if not force and not (
            template in (known["id"], known["name"]) and organization in (None, known["organization"])
        ):
            owner = f"{known['name']!r} of organization {known['organization']!r}"
            raise StateError(f"{dest} is the ISO of template {owner}, not of {template!r}; nothing was removed")
        site = self._gateway.site()["url"].rstrip("/")
        # An ISO may have another address of the same gateway in it; then the gateway knows the credential.
        if not force and held.credential is None and held.config["site"]["url"] != site:
            raise StateError(
                f"{dest} belongs to the site {held.config['site']['url']}, so {site} cannot revoke its credential;"
                " nothing was removed (set force to delete the file all the same)"
            )
        if not self._check_mode:
            # In this order: a file that outlives its credential is harmless, and the next run finds it.
            self._revoke(known["id"], held.credential)
            with image_errors():
                dest.unlink()
            self._remove_netboot(netboot_directory, dest)
        before = {"path": str(dest), "credential": credential_state(held.credential, _now())}
        return {"changed": True, "diff": {"before": before, "after": {}}, "iso": None}

    def held(self, dest: Path, *, foreign_allowed: bool) -> Held | None:
        """The ISO at the destination. Raises StateError for another kind of file there, unless it may be replaced."""
        if not dest.exists():
            return None
        with image_errors():
            try:
                info = image.inspect_iso(dest)
            except image.MissingLibraryError:
                raise
            except image.IsoImageError as error:
                if foreign_allowed:
                    return None
                raise StateError(
                    f"{dest} is there and is no ISO of a template ({error}); it was left as it is"
                ) from error
            mode = stat.S_IMODE(dest.stat().st_mode)
        if info.config is None:
            if foreign_allowed:
                return None
            raise StateError(f"{dest} is a base image and no ISO of a template; it was left as it is")
        return Held(info, mode, self._credential_of(info.config))

    def _credential_of(self, config: t.Mapping[str, t.Any]) -> IsoCredential | None:
        """The gateway's record of the credential in an ISO; None when it (or the whole template) is not known there."""
        mark = fingerprint(config["credential"])
        try:
            known = self._gateway.iso_credentials(config["template"]["id"])
            return next((item for item in known if item["fingerprint"] == mark), None)
        except HttpError as error:
            if error.status == 404:
                return None
            raise

    def _configuration(self, wanted: Wanted, template: Template, credential: str) -> dict[str, t.Any]:
        settings = dict(wanted.settings)
        own = settings.pop("site", {})
        site = {**self._gateway.site(), **{name: value for name, value in own.items() if value is not None}}
        return {
            "format": image.FORMAT,
            "site": {"url": site["url"], "ca_pem": site["ca_pem"], "proxy": settings.pop("proxy")},
            "credential": credential,
            "template": {name: template[name] for name in ("id", "name", "organization")},
            **settings,
        }

    def _differences(
        self,
        held: Held | None,
        wanted: Wanted,
        config: t.Mapping[str, t.Any],
        kernel_args: list[str],
        volume_id: str,
    ) -> Differences:
        """What differs from the ISO at the destination; never empty without one or with force."""
        differences = Differences()
        if held is None:
            differences.add("path", None, str(wanted.dest))
            return differences
        if wanted.force:
            differences.add("force", False, True)
        shown_before, shown_after = public_config(held.config), public_config(config)
        for name in config:
            if name != "credential" and held.config.get(name) != config[name]:
                before, after = shown_before.get(name), shown_after.get(name)
                differences.add(name, before, after if before != after else "(changed, not shown)")
        differences.add("credential", credential_state(held.credential, _now()), "valid")
        if held.credential is not None:
            differences.add("max_registrations", held.credential["max_registrations"], wanted.max_registrations)
        differences.add("kernel_args", held.info.kernel_args, kernel_args)
        differences.add("base", held.info.volume_id, volume_id)
        differences.add("mode", f"{held.mode:04o}", f"{image.MODE:04o}")
        return differences

    def _make(self, wanted: Wanted, template: Template) -> tuple[image.IsoInfo, IsoCredential]:
        """Issue a credential and write the ISO. If that fails, revoke it; the destination keeps its old file."""
        credential = self._gateway.issue_iso_credential(
            template["id"],
            ttl_hours=wanted.ttl_hours,
            max_registrations=wanted.max_registrations,
            description=f"{wanted.dest.name} made on {socket.gethostname()}"[:200],
        )
        try:
            config = self._configuration(wanted, template, credential["credential"])
            with image_errors():
                info = image.write_iso(wanted.base, wanted.dest, config, wanted.kernel_args)
        except BaseException as error:
            try:
                self._revoke(template["id"], credential)
            except ColdmigError as second:
                raise IsoError(
                    f"{error}; and the fresh credential {credential['id']} could not be revoked: {second}"
                ) from error
            raise
        return info, credential

    def _remove_netboot(self, directory: Path | None, dest: Path) -> bool:
        if directory is None:
            return False
        with image_errors():
            return netboot.remove(directory, dest.stem, check_mode=self._check_mode)

    def _revoke(self, template_id: str, credential: IsoCredential | None) -> None:
        if credential is not None and credential_state(credential, _now()) != "revoked":
            self._gateway.revoke_iso_credential(template_id, credential["id"])


def find_template(gateway: GatewayClient, name_or_id: str, organization: str | None) -> Template:
    """The template an ISO is made for. Raises InputError when there is none that this token may see."""
    template = gateway.find_template(name_or_id, organization)
    if template is None:
        raise InputError("template", name_or_id, "the name or id of a template that this token may see")
    return template


def _netboot_files(wanted: Wanted, config: t.Mapping[str, t.Any]) -> netboot.Netboot | None:
    """The files to boot from the network, if they are wanted."""
    if wanted.netboot is None:
        return None
    return netboot.plan(
        wanted.base, wanted.netboot, wanted.dest.stem, config, image.validate_kernel_args(wanted.kernel_args)
    )


def _check_directory(dest: Path) -> None:
    if dest.is_dir():
        raise InputError("dest", str(dest), "the path of a file; this is a directory")
    if not dest.parent.is_dir():
        raise InputError("dest", str(dest), f"a file in a directory that exists; {dest.parent} does not")
    if not os.access(dest.parent, os.W_OK | os.X_OK):
        raise InputError("dest", str(dest), f"a file in a directory that may be written; {dest.parent} may not")


def _now() -> datetime:
    return datetime.now(tz=UTC)
