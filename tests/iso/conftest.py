# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the build tool importable and builds the base ISO once for the slow tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str((CHECKOUT / "iso-build").resolve()))


@pytest.fixture
def site_config() -> dict[str, object]:
    """A configuration with every required field."""
    return {
        "site": {"url": "https://site.example:8443", "ca_pem": CA_PEM},
        "credential": "cm1_iso_" + "A" * 43,
        "template": {"id": "7d1f", "name": "erp", "organization": "acme"},
    }


@pytest.fixture(scope="session")
def base_iso() -> Path:
    """The base ISO from this checkout; COLDMIG_BASE_ISO gives a ready one."""
    ready = os.environ.get("COLDMIG_BASE_ISO")
    if ready:
        return Path(ready)
    from coldmig_iso.cache import Cache
    from coldmig_iso.pipeline import BuildOptions, build

    return build(BuildOptions(), Cache(), print).path


# Self-signed; nobody has its key any more.
CA_PEM = """-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUByQd0Zc9b7uX36l9PnZvHrhTRgUwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMc2l0ZS5leGFtcGxlMCAXDTI2MTEyMzIzMzQwOVoYDzIxMjYx
MDMwMjMzNDA5WjAXMRUwEwYDVQQDDAxzaXRlLmV4YW1wbGUwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAARl5DwjFPDGyAZxXAxx70AvSD6M/39bv+LyrjKR0eGfXDAN
Us//EICGW2s40KTDrBPncnEsS6XAXLbOT1skz6IRo1MwUTAdBgNVHQ4EFgQU8Vf6
yxBEmjU21rNYQZM8K/pY8jUwHwYDVR0jBBgwFoAU8Vf6yxBEmjU21rNYQZM8K/pY
8jUwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAuMXhy4yAQ6xZi
KpZtQOwHYxPjBbLsP22LVCLJkoQ5oAIhAI0CVVSRnKSxoLvOk+ACzmZ8zjpdgrgM
mdq0lszsxTuB
-----END CERTIFICATE-----
"""
