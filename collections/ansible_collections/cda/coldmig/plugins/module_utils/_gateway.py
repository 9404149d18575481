# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Typed client for the control plane of the gateway (``/api/v1``) and for the finished images of its data plane.

Knows nothing of AnsibleModule: modules, the inventory plugin and tests use the same class. Every method raises the
errors of ``_errors``; ``find_…``, ``template`` and ``migration`` return None for what is not there or may not be seen:
the gateway does not tell the two apart.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.cda.coldmig.plugins.module_utils import _claim
from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    ColdmigError,
    HttpError,
    InputError,
    ProtocolError,
)
from ansible_collections.cda.coldmig.plugins.module_utils._http import (
    HttpClient,
    Response,
    body_blocks,
    ca_file,
    server_url,
)

if t.TYPE_CHECKING:
    import requests

API = "/api/v1"
PAGE = 200

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Activation(t.TypedDict):
    """Whether cold migration may be used, and by which organizations."""

    active: bool
    organizations: list[str]
    changed_at: str | None
    changed_by: str | None


class NetworkSettings(t.TypedDict):
    """Where one NIC of the source is connected at the destination."""

    network: str
    ip_mode: str
    ip: str | None
    keep_mac: bool
    connected: bool
    adapter: t.NotRequired[str | None]


class DiskPlace(t.TypedDict):
    """Where one disk of the source is kept; None is where the VM is."""

    storage_profile: str | None


class Destination(t.TypedDict):
    """Where in VCD the VM arrives; ``networks`` and ``disks`` are in the order of the source.

    A gateway of an earlier version knows only the first three and ``networks``.
    """

    vdc: str
    storage_profile: str | None
    vapp: str | None
    networks: list[NetworkSettings]
    import_as: t.NotRequired[str | None]
    description: t.NotRequired[str | None]
    owner: t.NotRequired[str | None]
    metadata: t.NotRequired[dict[str, str]]
    disks: t.NotRequired[list[DiskPlace]]


class Limits(t.TypedDict):
    """Limits of a template; None is no limit. Sizes in bytes."""

    max_migrations: int | None
    max_disk_bytes: int | None
    max_total_bytes: int | None
    bandwidth_limit: int | None


class SiteLimits(t.TypedDict):
    """Limits of the site; None is no limit. ``bandwidth_limit`` in bytes per second."""

    bandwidth_limit: int | None
    max_concurrent_copies: int | None
    changed_at: str | None
    changed_by: str | None


class Hardware(t.TypedDict):
    """Virtual hardware that was asked for; None is chosen by itself."""

    guest_id: str | None
    firmware: str | None
    secure_boot: bool | None
    disk_controller: str | None
    nic_type: str | None
    cpus: int | None
    cores_per_socket: int | None
    memory_mb: int | None


class MigrationWarning(t.TypedDict):
    """Something to know before the copy; with ``severity`` ``block`` it must be ``accepted`` before."""

    code: str
    severity: str
    message: str
    action: str | None
    accepted: bool


class Template(t.TypedDict):
    """A template as the gateway keeps it. Times are RFC 3339, UTC."""

    id: str
    name: str
    organization: str
    description: str
    destination: Destination
    auto_start: bool
    power_on: bool
    name_pattern: str
    skip_free: str
    mode: str
    system: str | None
    accept_warnings: list[str]
    hardware: Hardware
    at_end: dict[str, str | None]
    collect_logs: bool
    limits: Limits
    created_at: str
    created_by: str
    updated_at: str


class IsoCredential(t.TypedDict):
    """An ISO credential. ``credential`` (the secret) is in the answer to its creation only."""

    id: str
    fingerprint: str
    description: str
    created_at: str
    expires_at: str
    revoked_at: str | None
    uses: int
    max_registrations: int | None
    credential: t.NotRequired[str]


class Site(t.TypedDict):
    """What an ISO has to know of the site."""

    url: str
    ca_pem: str
    version: str
    name: str


class TemplateRef(t.TypedDict):
    """The template that a migration was registered under."""

    id: str
    name: str


class MigrationDisk(t.TypedDict):
    """One disk of a migration; sizes in bytes, ``merkle_root`` in hexadecimal once it was verified."""

    index: int
    size_bytes: int
    chunks: int
    used_bytes: int | None
    have_chunks: int
    earlier: list[dict[str, t.Any]]
    unreadable: dict[str, t.Any]
    data_chunks: int | None
    stored_bytes: int | None
    vmdk_bytes: int | None
    merkle_root: str | None
    verified: bool
    source: dict[str, t.Any]


class Migration(t.TypedDict):
    """A migration: one boot of one source machine."""

    id: str
    name: str
    organization: str
    template: TemplateRef
    state: str
    reason: str | None
    detail: str | None
    created_at: str
    updated_at: str
    last_seen_at: str | None
    source_ip: str | None
    machine: dict[str, t.Any]
    mode: str
    system: str | None
    guest: dict[str, t.Any]
    guests: list[dict[str, t.Any]]
    warnings: list[MigrationWarning]
    accept_warnings: list[str]
    blocked: list[str]
    hardware: Hardware
    destination: Destination
    power_on: bool
    skip_free: str
    accept_unreadable: bool
    superseded_by: str | None
    disks: list[MigrationDisk]
    progress: dict[str, t.Any] | None
    refs: dict[str, str | None]
    claim: t.NotRequired[dict[str, str] | None]
    keep_staging_until: t.NotRequired[str | None]
    staging_removed_at: t.NotRequired[str | None]
    checks: t.NotRequired[dict[str, t.Any]]


@dataclass(frozen=True)
class Image:
    """An open streamOptimized VMDK: its exact length in bytes, and the answer to read it from."""

    length: int
    answer: requests.Response

    def blocks(self, size: int = 1 << 20) -> t.Iterator[bytes]:
        """The image in order. Raises TransportError when the connection breaks before its end."""
        return body_blocks(self.answer, size, method="GET")


class GatewayClient:
    """The gateway as one holder of a token sees it.

    *url* is ``https://host[:port]``. *ca_path* names the PEM file with the site's CA; None trusts the system's CAs.
    Raises InputError (fields ``gateway_url``, ``gateway_token``, ``gateway_ca_path``) before anything is sent.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca_path: str | None = None,
        timeout: float = 30.0,
        attempts: int = 4,
        claim_seconds: int = _claim.SECONDS,
    ) -> None:
        if not re.fullmatch(r"cm1_(pro|org|ses|iso)_[A-Za-z0-9_-]{43}", token):
            # A wrong token may be another secret, so it is not shown.
            raise InputError("gateway_token", "(hidden)", "a token of the gateway, cm1_pro_… or cm1_org_…")

        def client() -> HttpClient:
            return HttpClient(
                server_url("gateway_url", url),
                verify=ca_file("gateway_ca_path", ca_path),
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json, application/problem+json"},
                timeout=timeout,
                attempts=attempts,
            )

        self._client = client
        self._http = client()
        self._claim_seconds = claim_seconds
        self._holder = _claim.new_holder()
        self._claims: dict[str, _claim.Claim] = {}

    @classmethod
    def from_options(cls, options: t.Mapping[str, t.Any]) -> GatewayClient:
        """A client from the options of a module (see ``gateway_options`` in ``_argspec``)."""
        return cls(
            options["gateway_url"],
            options["gateway_token"],
            ca_path=options["gateway_ca_path"],
            timeout=options["timeout"],
            claim_seconds=options.get("claim_seconds") or _claim.SECONDS,
        )

    def close(self) -> None:
        """Let go of what was claimed, and close the connections that are kept open."""
        for migration_id in list(self._claims):
            self._end_claim(migration_id)
            with contextlib.suppress(ColdmigError):  # else it ends by itself
                self._migration_action(migration_id, "release", {"holder": self._holder})
        self._http.close()

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    # -- activation and site

    def activation(self) -> Activation:
        """Whether cold migration is active, and for whom."""
        return t.cast(Activation, self._object("GET", "/activation"))

    def set_activation(self, *, active: bool, organizations: list[str] | None) -> Activation:
        """Activate or deactivate (provider). ``organizations`` None leaves the list as it is."""
        body = {"active": active, "organizations": organizations}
        return t.cast(Activation, self._object("PUT", "/activation", body))

    def site(self) -> Site:
        """Public address and CA of the site."""
        return t.cast(Site, self._object("GET", "/site"))

    def site_limits(self) -> SiteLimits:
        """What all copies together may take (provider)."""
        return t.cast(SiteLimits, self._object("GET", "/site/limits"))

    def change_site_limits(self, changes: t.Mapping[str, int | None]) -> SiteLimits:
        """Change limits of the site (provider); None takes one away."""
        return t.cast(SiteLimits, self._object("PATCH", "/site/limits", changes))

    # -- templates

    def templates(self, *, name: str | None = None, organization: str | None = None) -> t.Iterator[Template]:
        """Templates that this token may see."""
        return t.cast("t.Iterator[Template]", self._items("/templates", name=name, organization=organization))

    def template(self, template_id: str) -> Template | None:
        """One template."""
        return t.cast("Template | None", self._object_or_none(f"/templates/{_segment(template_id)}"))

    def find_template(self, name_or_id: str, organization: str | None = None) -> Template | None:
        """The template with this id or name. Raises InputError when several organizations have one of this name."""
        if UUID.fullmatch(name_or_id):
            found = self.template(name_or_id)
            if found is not None and organization in (None, found["organization"]):
                return found
        return self.find_template_by_name(name_or_id, organization)

    def find_template_by_name(self, name: str, organization: str | None = None) -> Template | None:
        """The template with this name. Raises InputError when several organizations have one."""
        named = list(self.templates(name=name, organization=organization))
        if len(named) > 1:
            owners = ", ".join(sorted(item["organization"] for item in named))
            raise InputError("organization", organization, f"several have a template {name!r}, name one of: {owners}")
        return named[0] if named else None

    def create_template(self, body: t.Mapping[str, t.Any]) -> Template:
        """Create a template from its writable fields."""
        return t.cast(Template, self._object("POST", "/templates", body))

    def replace_template(self, template_id: str, body: t.Mapping[str, t.Any]) -> Template:
        """Replace the writable fields of a template."""
        return t.cast(Template, self._object("PUT", f"/templates/{_segment(template_id)}", body))

    def delete_template(self, template_id: str) -> None:
        """Delete a template; its ISOs cannot register any more."""
        self._delete(f"/templates/{_segment(template_id)}")

    # -- ISO credentials

    def iso_credentials(self, template_id: str) -> t.Iterator[IsoCredential]:
        """The ISO credentials of a template, without their secrets."""
        path = f"/templates/{_segment(template_id)}/iso-credentials"
        return t.cast("t.Iterator[IsoCredential]", self._items(path))

    def issue_iso_credential(
        self, template_id: str, *, ttl_hours: int, max_registrations: int | None, description: str
    ) -> IsoCredential:
        """Issue an ISO credential; the answer alone holds the secret."""
        path = f"/templates/{_segment(template_id)}/iso-credentials"
        body = {"ttl_hours": ttl_hours, "max_registrations": max_registrations, "description": description}
        return t.cast(IsoCredential, self._object("POST", path, body))

    def revoke_iso_credential(self, template_id: str, credential_id: str) -> None:
        """Revoke an ISO credential; one that is gone already is fine."""
        self._delete(f"/templates/{_segment(template_id)}/iso-credentials/{_segment(credential_id)}")

    # -- migrations

    def migrations(
        self,
        *,
        states: t.Sequence[str] = (),
        template: str | None = None,
        organization: str | None = None,
        text: str | None = None,
    ) -> t.Iterator[Migration]:
        """Migrations, newest first. *template* is an id or a name, *text* is searched in names and addresses."""
        found = self._items("/migrations", state=list(states), template=template, organization=organization, q=text)
        return t.cast("t.Iterator[Migration]", found)

    def migration(self, migration_id: str) -> Migration | None:
        """One migration."""
        return t.cast("Migration | None", self._object_or_none(f"/migrations/{_segment(migration_id)}"))

    def find_migration(self, name_or_id: str) -> Migration | None:
        """The migration with this id or exact name. Raises InputError when several have the name."""
        if UUID.fullmatch(name_or_id):
            return self.migration(name_or_id)
        named = [item for item in self.migrations(text=name_or_id) if item["name"] == name_or_id]
        if len(named) > 1:
            # Every boot of a source is a migration of its own, so this is common.
            known = ", ".join(f"{item['id']} ({item['state']})" for item in named)
            raise InputError("migration", name_or_id, f"several have this name, give an id: {known}")
        return named[0] if named else None

    def confirm(self, migration_id: str) -> Migration:
        """waiting → confirmed."""
        return self._migration_action(migration_id, "confirm", {})

    def cancel(self, migration_id: str, reason: str) -> Migration:
        """Any state that has not ended → canceled."""
        return self._migration_action(migration_id, "cancel", {"reason": reason})

    def change_migration(self, migration_id: str, changes: t.Mapping[str, t.Any]) -> Migration:
        """Change settings or what is accepted, before the import."""
        return t.cast(Migration, self._object("PATCH", f"/migrations/{_segment(migration_id)}", changes))

    def delete_migration(self, migration_id: str) -> None:
        """Delete an ended migration with all that is staged of it."""
        self._delete(f"/migrations/{_segment(migration_id)}")

    def logs(self, migration_id: str) -> dict[str, t.Any] | None:
        """What the agent of a migration has logged: {at, text}. None when it has sent nothing."""
        return self._object_or_none(f"/migrations/{_segment(migration_id)}/logs")

    def audit(self, migration_id: str) -> t.Iterator[dict[str, t.Any]]:
        """The audit trail of a migration: {at, actor, event, from, to, detail}."""
        return self._items(f"/migrations/{_segment(migration_id)}/audit")

    # -- finishing (provider)

    def begin_import(self, migration_id: str, run: str) -> Migration:
        """copied → importing; from importing it resumes. *run* names who imports.

        The migration is this client's until ``finish``, ``undone`` or ``close``. Raises HttpError with the slug
        ``claimed`` while it is another runner's.
        """
        migration = self._migration_action(migration_id, "import", self._claim_body(run))
        self._keep_claim(migration_id, run)
        return migration

    def claim(self, migration_id: str, run: str) -> Migration:
        """The same without beginning the import, in any state."""
        migration = self._migration_action(migration_id, "claim", self._claim_body(run))
        self._keep_claim(migration_id, run)
        return migration

    def holds(self, migration_id: str) -> bool:
        """Whether the migration is this client's, as far as it knows."""
        return migration_id in self._claims

    def undone(self, migration_id: str, run: str, to: str) -> Migration:
        """What was made at the destination is removed: canceled, or copied again (*to*)."""
        migration = self._migration_action(migration_id, "undone", {"run": run, "holder": self._holder, "to": to})
        self._end_claim(migration_id)
        return migration

    def note_check(self, migration_id: str, name: str, found: t.Mapping[str, t.Any]) -> Migration:
        """Note what a check (preflight, test-boot, import) found: {passed, detail, findings}."""
        path = f"/migrations/{_segment(migration_id)}/checks/{_segment(name)}"
        return t.cast(Migration, self._object("PUT", path, found))

    def note_refs(self, migration_id: str, refs: t.Mapping[str, str | None]) -> Migration:
        """Note what was made at the destination so far (vcenter_vm, vcd_vapp, vcd_vm), for a run that resumes."""
        self._require_claim(migration_id)
        path = f"/migrations/{_segment(migration_id)}/destination-refs"
        return t.cast(Migration, self._object("PATCH", path, refs))

    def finish(
        self,
        migration_id: str,
        *,
        vcenter: t.Mapping[str, str],
        vcd: t.Mapping[str, str] | None = None,
        keep_staging_hours: int | None = None,
    ) -> Migration:
        """importing → finished. *keep_staging_hours* None keeps the staged copy as long as the site has set."""
        self._require_claim(migration_id)
        body: dict[str, t.Any] = {"vcenter": dict(vcenter), "vcd": dict(vcd) if vcd else None}
        if migration_id in self._claims:
            body["holder"] = self._holder
        if keep_staging_hours is not None:
            body["keep_staging_hours"] = keep_staging_hours
        migration = self._migration_action(migration_id, "finish", body)
        self._end_claim(migration_id)
        return migration

    def fail(self, migration_id: str, reason: str, detail: str) -> Migration:
        """Any state that has not ended → failed."""
        return self._migration_action(migration_id, "fail", {"reason": reason, "detail": detail})

    @contextlib.contextmanager
    def image(self, migration_id: str, disk: int) -> t.Iterator[Image]:
        """Open the streamOptimized VMDK of a copied disk; nothing of it is kept in memory."""
        path = f"/data/v1/migrations/{_segment(migration_id)}/disks/{disk}/image.vmdk"
        # The default Accept-Encoding would allow an encoding, and with it a length that is not the image's.
        with self._http.stream(path, headers={"Accept": "*/*", "Accept-Encoding": "identity"}) as answer:
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise ProtocolError(
                    "the image came without Content-Length", method="GET", url=self._http.base_url + path
                )
            yield Image(length=int(length), answer=answer)

    # -- the claim

    def _claim_body(self, run: str) -> dict[str, t.Any]:
        return {"run": run, "holder": self._holder, "seconds": self._claim_seconds}

    def _keep_claim(self, migration_id: str, run: str) -> None:
        if migration_id in self._claims:
            return
        path = f"{API}/migrations/{_segment(migration_id)}/claim"

        def renew() -> t.Mapping[str, t.Any]:
            # a connection of its own: this is another thread
            http = self._client()
            try:
                return _decoded_object(http.request("POST", path, json=self._claim_body(run)))
            finally:
                http.close()

        claim = self._claims[migration_id] = _claim.Claim(self._claim_seconds, renew)
        claim.start()

    def _require_claim(self, migration_id: str) -> None:
        if migration_id in self._claims:
            self._claims[migration_id].require()

    def _end_claim(self, migration_id: str) -> None:
        claim = self._claims.pop(migration_id, None)
        if claim is not None:
            claim.stop()

    # -- transport

    def _migration_action(self, migration_id: str, action: str, body: t.Mapping[str, t.Any]) -> Migration:
        return t.cast(Migration, self._object("POST", f"/migrations/{_segment(migration_id)}/{action}", body))

    def _object(self, method: str, path: str, body: t.Any = None) -> dict[str, t.Any]:
        return _decoded_object(self._http.request(method, API + path, json=body))

    def _object_or_none(self, path: str) -> dict[str, t.Any] | None:
        try:
            return self._object("GET", path)
        except HttpError as error:
            if error.status == 404:
                return None
            raise

    def _delete(self, path: str) -> None:
        """Delete; what is gone already is fine (a repeat after a lost answer finds it so)."""
        try:
            self._http.request("DELETE", API + path)
        except HttpError as error:
            if error.status != 404:
                raise

    def _items(self, path: str, **filters: str | list[str] | None) -> t.Iterator[dict[str, t.Any]]:
        """All items of a list, page by page."""
        query: dict[str, t.Any] = {name: value for name, value in filters.items() if value}
        query["limit"] = PAGE
        while True:
            response = self._http.request("GET", API + path, params=query)
            page = _decoded_object(response)
            items = page.get("items")
            if not isinstance(items, list):
                raise ProtocolError("the list has no items", method=response.method, url=response.url)
            yield from items
            following = page.get("next")
            if not following:
                return
            query["after"] = following


def _segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


def _decoded_object(response: Response) -> dict[str, t.Any]:
    document = response.json()
    if not isinstance(document, dict):
        raise ProtocolError("expected a JSON object", method=response.method, url=response.url)
    return document
