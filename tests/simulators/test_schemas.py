# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge: it must tell right documents from wrong ones, or the other tests prove nothing."""

from __future__ import annotations

import pytest
from lxml import etree

from simulators.vcd.markup import NSMAP
from simulators.vcd.schemas import Judge, folder, order_errors

SPACES = " ".join(f'xmlns{":" + prefix if prefix else ""}="{uri}"' for prefix, uri in NSMAP.items())
CONNECTION = (
    f'<NetworkConnectionSection {SPACES}><ovf:Info>i</ovf:Info><NetworkConnection network="none">'
    "<NetworkConnectionIndex>0</NetworkConnectionIndex>{extra}<IsConnected>false</IsConnected>"
    "<IpAddressAllocationMode>NONE</IpAddressAllocationMode></NetworkConnection></NetworkConnectionSection>"
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    if folder() is None:
        pytest.skip("the VCD schemas are not there (COLDMIG_VCD_SCHEMAS)")
    return Judge(folder())


def test_valid_document_passes_and_newer_elements_with_it(judge: Judge) -> None:
    for extra in ("", "<IpType>IPV4</IpType>"):
        document = etree.fromstring(CONNECTION.format(extra=extra))
        assert judge.errors(document) == []
        assert order_errors(document) == []


@pytest.mark.parametrize("extra", ["<Nosuch/>", "<IsConnected>false</IsConnected>"])
def test_invalid_document_fails(judge: Judge, extra: str) -> None:
    assert judge.errors(etree.fromstring(CONNECTION.format(extra=extra)))


def test_judging_leaves_the_document_alone(judge: Judge) -> None:
    document = etree.fromstring(CONNECTION.format(extra="<IpType>IPV4</IpType>"))
    before = etree.tostring(document)
    judge.errors(document)
    assert etree.tostring(document) == before


def test_without_schemas_order_and_info_are_still_judged() -> None:
    assert Judge(None).errors(etree.fromstring("<anything/>")) == []
    wrong = CONNECTION.format(extra="").replace("<ovf:Info>i</ovf:Info>", "")
    assert any("ovf:Info" in problem for problem in order_errors(etree.fromstring(wrong)))
    late = CONNECTION.format(extra="<NetworkAdapterType>VMXNET3</NetworkAdapterType>")
    assert any("too late" in problem for problem in order_errors(etree.fromstring(late)))
