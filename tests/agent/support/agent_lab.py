# SPDX-License-Identifier: GPL-3.0-or-later
"""Material for the agent's tests: file trees, disk images with real tables and file systems, certificates."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.images import MIB


def need(*tools: str) -> None:
    """Skip where a tool is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(*command: str | Path, stdin: bytes | None = None) -> bytes:
    """Run a tool that must succeed; its output."""
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make files; a value that begins with ``->`` makes a symbolic link, a name that ends with / a directory."""
    for name, content in files.items():
        path = root / name.lstrip("/")
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("->"):
            path.symlink_to(content[2:])
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    return root


def empty_image(path: Path, size: int) -> Path:
    """A sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def place(image: Path, content: Path, offset: int) -> None:
    """Copy a file system image into a disk image."""
    with image.open("r+b") as target, content.open("rb") as source:
        target.seek(offset)
        shutil.copyfileobj(source, target, MIB)


def ext4_image(path: Path, size: int, tree: Path, label: str = "root") -> Path:
    """An ext4 file system with the files of ``tree``, made without mounting anything."""
    need("mkfs.ext4")
    empty_image(path, size)
    run("mkfs.ext4", "-q", "-L", label, "-d", tree, path)
    return path


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives as long as the test."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str = "test CA") -> Authority:
        """A new self-signed authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return cls(key, _sign(subject, subject, key, key, ca=True))

    @property
    def pem(self) -> str:
        """The certificate as the ISO carries it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, directory: Path, *names: str, days: tuple[int, int] = (-1, 30)) -> Path:
        """A file with key and certificate for host names or addresses, valid between two days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = _sign(subject, self.certificate.subject, key, self.key, names=names, days=days)
        path = directory / f"server-{key.public_key().public_numbers().x % 10**8}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...] = (),
    days: tuple[int, int] = (-1, 30),
    ca: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signer, hashes.SHA256())
