# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables. Identifiers are UUIDs in text form; sizes are bytes; digests of tokens are SHA-256 in hexadecimal."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from coldmig_gateway.store.types import UtcDateTime


class Base(DeclarativeBase):
    """Base of all tables. Constraints get predictable names, so that a later schema migration can find them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this from the class
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[Any]: JSON,
        str: String,
        bool: Boolean,
        int: BigInteger,
    }


class Listed:
    """Mixin of the things that are listed in pages: an id and the moment of creation, which give them an order."""

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[datetime]


class Activation(Base):
    """One row: whether cold migration is on, and for which organizations."""

    __tablename__ = "activation"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    active: Mapped[bool]
    organizations: Mapped[list[str]]
    changed_at: Mapped[datetime | None]
    changed_by: Mapped[str | None] = mapped_column(String(200))


class SiteLimits(Base):
    """One row: what all copies of the site may take together; None is no limit."""

    __tablename__ = "site_limits"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    bandwidth_limit: Mapped[int | None]  # bytes per second
    max_concurrent_copies: Mapped[int | None]
    changed_at: Mapped[datetime | None]
    changed_by: Mapped[str | None] = mapped_column(String(200))


class Token(Listed, Base):
    """A token of the provider (no organization) or of an organization."""

    __tablename__ = "tokens"

    organization: Mapped[str | None] = mapped_column(String(63))
    description: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_by: Mapped[str] = mapped_column(String(200))
    revoked_at: Mapped[datetime | None]


class Template(Listed, Base):
    """What a tenant's ISO is made for. A deleted template stays, so that its ISOs can be told why they are refused."""

    __tablename__ = "templates"
    __table_args__ = (
        Index(
            "uq_templates_organization_name",
            "organization",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    name: Mapped[str] = mapped_column(String(63))
    organization: Mapped[str] = mapped_column(String(63))
    description: Mapped[str] = mapped_column(String(1000))
    destination: Mapped[dict[str, Any]]
    auto_start: Mapped[bool]
    power_on: Mapped[bool]
    name_pattern: Mapped[str] = mapped_column(String(100))
    skip_free: Mapped[str] = mapped_column(String(8), server_default=text("'auto'"))  # auto, never
    mode: Mapped[str] = mapped_column(String(8), server_default=text("'migrate'"))  # migrate, assess
    system: Mapped[str | None] = mapped_column(String(256))  # key or pattern of the system that is meant
    accept_warnings: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))  # codes
    hardware: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # only what was asked for
    at_end: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # only what was asked for
    collect_logs: Mapped[bool] = mapped_column(server_default=false())
    max_migrations: Mapped[int | None]
    max_disk_bytes: Mapped[int | None]
    max_total_bytes: Mapped[int | None]
    bandwidth_limit: Mapped[int | None]  # bytes per second, of all its migrations together
    created_by: Mapped[str] = mapped_column(String(200))
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class IsoCredential(Listed, Base):
    """The right to register machines under one template."""

    __tablename__ = "iso_credentials"

    template_id: Mapped[str] = mapped_column(ForeignKey("templates.id"), index=True)
    description: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_by: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[datetime]
    max_registrations: Mapped[int | None]
    uses: Mapped[int]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    template: Mapped[Template] = relationship()


class Migration(Listed, Base):
    """One boot of one source machine, and what became of it."""

    __tablename__ = "migrations"
    __table_args__ = (
        Index("ix_migrations_created_at_id", "created_at", "id"),
        Index("uq_migrations_credential_id_enrolment_key", "credential_id", "enrolment_key", unique=True),
        Index("ix_migrations_machine", "machine_uuid", "template_id"),
    )

    name: Mapped[str] = mapped_column(String(80))
    organization: Mapped[str] = mapped_column(String(63), index=True)
    template_id: Mapped[str] = mapped_column(ForeignKey("templates.id"), index=True)
    credential_id: Mapped[str] = mapped_column(ForeignKey("iso_credentials.id"), index=True)
    enrolment_key: Mapped[str | None] = mapped_column(String(64))  # chosen by the agent, one per boot
    session_digest: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(String(500))
    detail: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime]
    source_ip: Mapped[str | None] = mapped_column(String(45))
    machine: Mapped[dict[str, Any]]
    machine_uuid: Mapped[str | None] = mapped_column(String(36))  # SMBIOS, lower case; None where it says nothing
    destination: Mapped[dict[str, Any]]
    power_on: Mapped[bool]
    skip_free: Mapped[str] = mapped_column(String(8), server_default=text("'auto'"))  # the template's at registration
    mode: Mapped[str] = mapped_column(String(8), server_default=text("'migrate'"))  # migrate, assess
    system: Mapped[str | None] = mapped_column(String(256))  # key or pattern of the system that is meant
    accept_warnings: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))  # codes
    hardware: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # only what was asked for
    at_end: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # only what was asked for
    collect_logs: Mapped[bool] = mapped_column(server_default=false())
    blocked: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))  # codes that hold it back, see held.py
    accept_unreadable: Mapped[bool] = mapped_column(server_default=false())
    last_seen_at: Mapped[datetime | None]  # the agent; written now and then, see presence.py
    confirmed_at: Mapped[datetime | None]  # the order in which copies begin
    ended_at: Mapped[datetime | None]
    reserved_bytes: Mapped[int | None]  # of staging, from the confirmation on
    superseded_by: Mapped[str | None] = mapped_column(String(36))  # a later boot of the same machine
    staging_removed_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    vcenter_vm: Mapped[str | None] = mapped_column(String(512))
    vcd_vapp: Mapped[str | None] = mapped_column(String(512))
    vcd_vm: Mapped[str | None] = mapped_column(String(512))
    run: Mapped[str | None] = mapped_column(String(200))  # who works on the destination, see claims.py
    run_holder: Mapped[str | None] = mapped_column(String(64))
    run_since: Mapped[datetime | None]
    run_until: Mapped[datetime | None]
    keep_staging_until: Mapped[datetime | None]  # None: as long as the site keeps what has ended
    checks: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # name -> what was found last

    template: Mapped[Template] = relationship()
    disks: Mapped[list[Disk]] = relationship(
        order_by="Disk.index", cascade="all, delete-orphan", passive_deletes=True, lazy="selectin"
    )


class Disk(Base):
    """One disk of a migration. The columns below ``verified`` are known once it is verified."""

    __tablename__ = "disks"

    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    size_bytes: Mapped[int]
    chunks: Mapped[int]
    path: Mapped[str] = mapped_column(String(256))
    serial: Mapped[str | None] = mapped_column(String(256))
    model: Mapped[str | None] = mapped_column(String(256))
    used_bytes: Mapped[int | None]  # what has to be copied when free space is left out; None: not known
    earlier: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))  # [[migration id, index], …], newest first
    unreadable_bytes: Mapped[int] = mapped_column(server_default=text("0"))  # as the agent reported
    unreadable_ranges: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))  # [[start, length], …] in bytes
    verified: Mapped[bool]
    merkle_root: Mapped[str | None] = mapped_column(String(64))
    unreadable_chunks: Mapped[int | None]
    data_chunks: Mapped[int | None]
    stored_bytes: Mapped[int | None]
    vmdk_bytes: Mapped[int | None]


class AgentLogs(Base):
    """What the agent of a migration logged, as it sent it: gzip. It goes with the migration."""

    __tablename__ = "agent_logs"

    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime]
    content: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEntry(Base):
    """Who did what to which thing, and when. Never changed, never deleted, not even with the thing itself."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_subject", "subject_kind", "subject_id"),)

    # A plain INTEGER on SQLite, where only that counts up by itself.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(200))
    subject_kind: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[str] = mapped_column(String(36))
    event: Mapped[str] = mapped_column(String(64))
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str | None] = mapped_column(String(16))
    detail: Mapped[dict[str, Any]]
