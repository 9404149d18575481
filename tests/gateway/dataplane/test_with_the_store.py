# SPDX-License-Identifier: GPL-3.0-or-later
"""The front on the real store: an enrolled machine's copy from its first frame to its image."""

from __future__ import annotations

from pathlib import Path

from coldmig_wire.frames import CHUNK
from gateway.dataplane.front import Client, Front, wait_until
from gateway.sitekit import TEMPLATE, running_site
from gateway.staging.content import data_frame, raw_chunk, zero_frame


def test_an_enrolled_machine_copies_and_the_provider_gets_its_image(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        front = Front(tmp_path, site=site.data_plane)
        try:
            site.activate("acme")
            tenant = site.tenant("acme")
            template = tenant.ok("POST", "/templates", TEMPLATE)
            migration_id, agent = site.enrol(site.iso(tenant, template["id"]))
            session = Client(front.port, front.certificate, agent.token)

            assert session.send([]).json["state"] == "waiting"
            tenant.ok("POST", f"/migrations/{migration_id}/confirm")
            disks = agent.ok("GET", "/session")["disks"]
            first, second = disks[0], disks[1]
            last = raw_chunk(9, first["size_bytes"] % CHUNK)
            frames = [
                data_frame(0, raw_chunk(0)),
                zero_frame(1, first["chunks"] - 2),
                data_frame(first["chunks"] - 1, last),
                data_frame(0, raw_chunk(1, second["size_bytes"]), disk=1),
            ]
            assert session.send(frames[:3]).json["rejected"] == []
            assert site.provider.ok("GET", f"/migrations/{migration_id}")["state"] == "copying"
            assert session.send(frames[3:]).json == {"durable": 1, "rejected": []}
            wait_until(
                lambda: site.provider.ok("GET", f"/migrations/{migration_id}")["state"] == "copied",
                "the store says copied",
            )
            seen = site.provider.ok("GET", f"/migrations/{migration_id}")
            provider = Client(front.port, front.certificate, site.provider.token)
            for disk in seen["disks"]:
                path = f"/data/v1/migrations/{migration_id}/disks/{disk['index']}/image.vmdk"
                image = provider.request("GET", path)
                assert (image.status, len(image.body)) == (200, disk["vmdk_bytes"])
                assert disk["verified"]
            assert session.send([]).json["state"] == "copied"
        finally:
            front.stop()
