# SPDX-License-Identifier: GPL-3.0-or-later
"""The site's own certificate authority and the server certificate it issues.

ISOs pin the CA, so the CA must outlive them and is never replaced here; the server certificate is issued again when its
names change or when less than a third of its life is left.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coldmig_gateway.clock import now
from coldmig_gateway.config import is_ip_address
from coldmig_gateway.files import write_private, write_public

CA_LIFE = timedelta(days=20 * 365)
SERVER_LIFE = timedelta(days=825)  # the longest that common TLS clients accept
_BACKDATED = timedelta(hours=1)  # clients whose clock is a little behind


def ensure_ca(directory: Path, site_name: str) -> bool:
    """Make ``ca.pem`` and ``ca.key`` if there is no CA yet; says whether it did."""
    if (directory / "ca.pem").exists():
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{site_name} CA"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), now() + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: a CA certificate without its key would look finished and be useless.
    write_private(directory / "ca.key", _key_pem(key))
    write_public(directory / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return True


def ensure_server(directory: Path, names: Sequence[str]) -> bool:
    """Issue ``server.pem`` (leaf, CA) and ``server.key`` when missing, old, or for other names; says whether it did."""
    path = directory / "server.pem"
    if path.exists() and (directory / "server.key").exists():
        current = x509.load_pem_x509_certificates(path.read_bytes())[0]
        if certificate_names(current) == set(names) and not _is_old(current, now()):
            return False
    ca = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{directory / 'ca.key'} is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    ends = min(now() + SERVER_LIFE, ca.not_valid_after_utc)
    certificate = (
        _builder(subject, ca.subject, key.public_key(), ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    # The key comes first; should the gateway die between the two, the pair does not match and is made again.
    path.unlink(missing_ok=True)
    write_private(directory / "server.key", _key_pem(key))
    write_public(path, b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (certificate, ca)))
    return True


def certificate_names(certificate: x509.Certificate) -> set[str]:
    """DNS names and IP addresses for which a certificate is valid."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName)) | {
        str(address) for address in names.get_values_for_type(x509.IPAddress)
    }


def _is_old(certificate: x509.Certificate, moment: datetime) -> bool:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return ends - moment < (ends - begins) / 3


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - _BACKDATED)
        .not_valid_after(ends)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_ip_address(name) else x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
