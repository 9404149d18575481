# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated vCenter as pyvmomi sees it: what it takes, what it refuses, and what is left after a failure."""

from __future__ import annotations

import hashlib
import http.client
import threading
from pathlib import Path

import pytest
from pyVmomi import vim, vmodl

from simulators.control import ControlError

from .conftest import Vcenter, make_vmdk, wait_until


def names(vcenter: Vcenter) -> set[str]:
    return {vm["name"] for vm in vcenter.site.vcenter.vms()}


def test_imported_disks_arrive_byte_for_byte_and_in_order(vcenter: Vcenter, tmp_path: Path) -> None:
    first, second = make_vmdk(tmp_path, "a", 16, seed=3), make_vmdk(tmp_path, "b", 24, seed=7)
    vm = vcenter.vm("two-disks", [first, second])
    received = vcenter.site.vcenter.disks_of(vm._moId)
    assert [Path(disk["path"]).read_bytes() for disk in received] == [first.read_bytes(), second.read_bytes()]
    assert [(disk["controller"], disk["bus"], disk["unit"], disk["capacity_bytes"]) for disk in received] == [
        ("ParaVirtualSCSIController", 0, 0, 16 << 20),
        ("ParaVirtualSCSIController", 0, 1, 24 << 20),
    ]
    view = vcenter.site.vcenter.vm("two-disks")
    assert (view["firmware"], view["cpus"], view["memory_mb"], view["version"]) == ("efi", 2, 1024, "vmx-19")
    assert view["extra_config"]["guestinfo.coldmig.id"] == "two-disks"


def test_manifest_has_the_digests_that_were_asked_for(vcenter: Vcenter, tmp_path: Path) -> None:
    vmdk = make_vmdk(tmp_path)
    lease = vcenter.lease("manifest", [16, 16])
    first, second = lease.info.deviceUrl
    lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=second.key, value="sha256")])
    vcenter.upload(first.url, vmdk)
    assert [entry.key for entry in lease.HttpNfcLeaseGetManifest()] == [first.key]
    vcenter.upload(second.url, vmdk)
    data = vmdk.read_bytes()
    manifest = {entry.key: entry for entry in lease.HttpNfcLeaseGetManifest()}
    assert manifest[first.key].checksum == manifest[first.key].sha1 == hashlib.sha1(data).hexdigest()  # noqa: S324
    assert (manifest[second.key].checksumType, manifest[second.key].checksum) == (
        "sha256",
        hashlib.sha256(data).hexdigest(),
    )
    assert manifest[first.key].size == len(data)
    with pytest.raises(vmodl.fault.InvalidArgument):
        lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=second.key, value="md5")])
    lease.Abort()


def test_device_urls_are_named_as_vcenter_names_them(vcenter: Vcenter) -> None:
    lease = vcenter.lease("naming", [16, 16])
    moid = lease.info.entity._moId
    assert [(url.key, url.importKey, url.targetId) for url in lease.info.deviceUrl] == [
        (f"/{moid}/ParaVirtualSCSIController0:0", "/naming/ParaVirtualSCSIController0:0", "disk-0.vmdk"),
        (f"/{moid}/ParaVirtualSCSIController0:1", "/naming/ParaVirtualSCSIController0:1", "disk-1.vmdk"),
    ]
    assert lease.info.totalDiskCapacityInKB == 32 << 10
    lease.Abort()


def test_device_urls_of_a_host_have_a_star_for_its_name(vcenter: Vcenter, tmp_path: Path) -> None:
    vcenter.site.vcenter.settings(device_url_host="*")
    lease = vcenter.lease("star", [16])
    url = lease.info.deviceUrl[0].url
    assert url.startswith("https://*/nfc/")
    assert vcenter.upload(url, make_vmdk(tmp_path)) == (200, "")
    lease.Abort()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "PUT"}, 405),
        ({"media": "application/octet-stream"}, 415),
        ({"chunked": True}, 411),
    ],
)
def test_upload_that_no_host_would_take_is_refused(
    vcenter: Vcenter, tmp_path: Path, changes: dict[str, object], status: int
) -> None:
    lease = vcenter.lease(f"refused-{status}", [16])
    vmdk = make_vmdk(tmp_path)
    assert vcenter.upload(lease.info.deviceUrl[0].url, vmdk, **changes)[0] == status
    assert vcenter.upload(lease.info.deviceUrl[0].url, vmdk)[0] == 200
    lease.Abort()


def _patched(source: Path, target: Path, offset: int, data: bytes) -> Path:
    content = bytearray(source.read_bytes())
    content[offset : offset + len(data)] = data
    target.write_bytes(content)
    return target


def test_body_that_is_not_a_stream_optimized_vmdk_is_refused(vcenter: Vcenter, tmp_path: Path) -> None:
    lease = vcenter.lease("not-vmdk", [16])
    url = lease.info.deviceUrl[0].url
    vmdk = make_vmdk(tmp_path)
    cases = {
        "not a sparse VMDK": _patched(vmdk, tmp_path / "magic", 0, b"XXXX"),
        "too old": _patched(vmdk, tmp_path / "version", 4, b"\1"),
        "not streamOptimized": _patched(vmdk, tmp_path / "flags", 10, b"\0"),
        "capacity": _patched(vmdk, tmp_path / "capacity", 12, b"\1\2"),
        "no footer": _patched(vmdk, tmp_path / "footer", 56, b"\xff" * 8),
    }
    for text, path in cases.items():
        status, answer = vcenter.upload(url, path)
        assert (status, text in answer) == (400, True), (text, answer)
    lease.Abort()


def test_complete_is_refused_while_a_disk_is_missing(vcenter: Vcenter, tmp_path: Path) -> None:
    lease = vcenter.lease("half", [16, 16])
    vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))
    with pytest.raises(vim.fault.InvalidState):
        lease.Complete()
    assert lease.state == "ready"
    lease.Abort()


def test_leased_vm_can_not_be_touched(vcenter: Vcenter, tmp_path: Path) -> None:
    lease = vcenter.lease("leased", [16])
    vm = lease.info.entity
    for call in (vm.PowerOn, vm.Destroy, lambda: vm.Reconfigure(vim.vm.ConfigSpec(numCPUs=1))):
        with pytest.raises(vim.fault.MethodDisabled, match="disabled"):
            call()
    vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))
    lease.Complete()
    wait_until(lambda: vm.PowerOn().info.state == "success")
    assert vcenter.site.vcenter.vm("leased")["power"] == "poweredOn"


def test_abort_removes_the_vm_and_what_was_received(vcenter: Vcenter, tmp_path: Path) -> None:
    lease = vcenter.lease("aborted", [16])
    vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))
    folder = Path(vcenter.site.state["vcenter"]["store"]) / lease.info.deviceUrl[0].url.split("/")[-2]
    assert folder.exists()
    lease.Abort()
    assert lease.state == "error"
    assert "aborted" not in names(vcenter)
    assert not folder.exists()


def test_lease_without_progress_dies_and_takes_the_vm_along(vcenter: Vcenter, tmp_path: Path) -> None:
    vcenter.site.vcenter.settings(lease_timeout_seconds=1)
    lease = vcenter.lease("silent", [16])
    vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))
    wait_until(lambda: lease.state == "error")
    assert isinstance(lease.error, vim.fault.Timedout)
    assert "silent" not in names(vcenter)
    with pytest.raises(vim.fault.Timedout):
        lease.Complete()
    assert vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))[0] == 404


def test_progress_keeps_the_lease_through_a_slow_upload(vcenter: Vcenter, tmp_path: Path) -> None:
    vcenter.site.vcenter.settings(lease_timeout_seconds=1)
    vmdk = make_vmdk(tmp_path)
    vcenter.site.vcenter.faults(upload_bytes_per_second=vmdk.stat().st_size // 2)
    lease = vcenter.lease("slow", [16])
    done = threading.Event()

    def keep_alive() -> None:
        while not done.wait(0.3):
            lease.Progress(50)

    keeper = threading.Thread(target=keep_alive)
    keeper.start()
    try:
        assert vcenter.upload(lease.info.deviceUrl[0].url, vmdk) == (200, "")
    finally:
        done.set()
        keeper.join()
    lease.Complete()
    assert Path(vcenter.site.vcenter.disks_of("slow")[0]["path"]).read_bytes() == vmdk.read_bytes()


def test_upload_is_cut_when_its_lease_dies(vcenter: Vcenter, tmp_path: Path) -> None:
    vcenter.site.vcenter.settings(lease_timeout_seconds=1)
    vcenter.site.vcenter.faults(upload_bytes_per_second=20_000)
    lease = vcenter.lease("cut", [16])
    with pytest.raises((OSError, http.client.HTTPException)):
        vcenter.upload(lease.info.deviceUrl[0].url, make_vmdk(tmp_path))
    assert vcenter.site.vcenter.events("upload-broken")


def test_injected_faults_hit_as_often_as_asked(vcenter: Vcenter, tmp_path: Path) -> None:
    vmdk = make_vmdk(tmp_path)
    control = vcenter.site.vcenter
    control.faults(refuse_import="the datastore is in maintenance mode", refuse_import_times=1)
    with pytest.raises(vim.fault.VmConfigFault, match="maintenance mode"):
        vcenter.lease("faulty", [16])
    control.faults(drop_upload_after=4096, drop_upload_times=1)
    lease = vcenter.lease("faulty", [16])
    with pytest.raises((OSError, http.client.HTTPException)):
        vcenter.upload(lease.info.deviceUrl[0].url, vmdk)
    assert vcenter.upload(lease.info.deviceUrl[0].url, vmdk) == (200, "")
    control.faults(upload_status=503)
    assert vcenter.upload(lease.info.deviceUrl[0].url, vmdk)[0] == 503
    control.faults(complete_fails="cannot write the descriptor")
    with pytest.raises(vim.fault.FileFault, match="descriptor"):
        lease.Complete()
    control.faults(unreachable=True)
    with pytest.raises((OSError, http.client.HTTPException)):
        lease.Progress(1)
    control.faults()
    lease.Abort()


def test_vm_that_is_destroyed_leaves_no_disks(vcenter: Vcenter, tmp_path: Path) -> None:
    vm = vcenter.vm("shortlived", [make_vmdk(tmp_path)])
    path = Path(vcenter.site.vcenter.disks_of("shortlived")[0]["path"])
    vm.Destroy()
    wait_until(lambda: not path.exists())
    assert "shortlived" not in names(vcenter)


def test_guest_descriptors_say_what_a_guest_can_boot_from(vcenter: Vcenter) -> None:
    query = vim.EnvironmentBrowser.ConfigOptionQuerySpec
    browser = vcenter.cluster.environmentBrowser

    def descriptor(guest: str, key: str = "vmx-19") -> object:
        return browser.QueryConfigOptionEx(query(key=key, guestId=[guest])).guestOSDescriptor[0]

    debian, old, windows = (
        descriptor("debian12_64Guest"),
        descriptor("winXPProGuest"),
        descriptor("windows2019srv_64Guest"),
    )
    assert vim.vm.device.ParaVirtualSCSIController in debian.supportedDiskControllerList
    assert debian.supportedFirmware == ["bios", "efi"]
    assert (debian.supportsSecureBoot, old.supportsSecureBoot) == (True, False)
    assert old.supportedFirmware == ["bios"]
    assert vim.vm.device.ParaVirtualSCSIController not in old.supportedDiskControllerList
    assert windows.recommendedFirmware == "efi"
    assert descriptor("debian12_64Guest", "vmx-10").supportedFirmware == ["bios"]
    assert len(browser.QueryConfigOptionEx(query(key="vmx-19", guestId=["nosuchGuest"])).guestOSDescriptor) > 100


def test_wrong_password_is_refused(vcenter: Vcenter) -> None:
    from pyVim.connect import SmartConnect

    from .conftest import tls

    where = vcenter.site.state["vcenter"]
    with pytest.raises(vim.fault.InvalidLogin):
        SmartConnect(
            host=where["host"], port=where["port"], user=where["username"], pwd="wrong", sslContext=tls(vcenter.site)
        )


# --- the n-th call ------------------------------------------------------------------------------------------------


def test_nth_call_is_refused_with_the_fault_that_was_asked_for(vcenter: Vcenter) -> None:
    faults = vcenter.site.vcenter
    faults.faults(calls=[{"at": [2], "methods": ["CurrentTime"], "action": "refuse", "minor": "HostNotReachable"}])
    vcenter.instance.CurrentTime()
    with pytest.raises(vmodl.fault.HostNotReachable):
        vcenter.instance.CurrentTime()
    vcenter.instance.CurrentTime()
    assert faults.call("GET", "faults")["seen"] == [3]
    faults.faults(calls=[{"every": 2, "action": "refuse", "message": "busy"}])
    vcenter.instance.CurrentTime()
    with pytest.raises(vmodl.fault.SystemError, match="busy"):
        vcenter.instance.CurrentTime()


def test_lost_answer_is_of_a_call_that_was_done_and_a_dropped_call_was_not(vcenter: Vcenter) -> None:
    faults = vcenter.site.vcenter
    faults.settings(lease_timeout_seconds=1)
    for action, made in (("drop", False), ("lose", True)):
        faults.faults(calls=[{"from": 1, "methods": ["ImportVApp"], "action": action}])
        with pytest.raises(http.client.RemoteDisconnected):
            vcenter.lease(action, [16])
        assert (action in names(vcenter)) is made
    wait_until(lambda: "lose" not in names(vcenter))  # with its lease, which nobody keeps alive
    assert [event["detail"]["action"] for event in faults.events("call-fault")][-2:] == ["drop", "lose"]


@pytest.mark.parametrize("action", ["hang", "hang-after"])
def test_call_hangs_until_other_faults_are_set(vcenter: Vcenter, action: str) -> None:
    faults = vcenter.site.vcenter
    begun = len(faults.events())
    faults.faults(calls=[{"at": [1], "methods": ["CurrentTime"], "action": action}])
    ended: list[BaseException] = []

    def call() -> None:
        try:
            vcenter.instance.CurrentTime()
        except http.client.RemoteDisconnected as error:
            ended.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    faults.wait_for_event("call-fault", after=begun)
    caller.join(0.3)
    assert caller.is_alive()
    faults.faults()
    caller.join(20)
    assert len(ended) == 1


def test_upload_counts_as_a_call(vcenter: Vcenter, tmp_path: Path) -> None:
    vmdk = make_vmdk(tmp_path)
    lease = vcenter.lease("uploads", [16])
    url = lease.info.deviceUrl[0].url
    vcenter.site.vcenter.faults(calls=[{"at": [1], "methods": ["upload"], "action": "refuse", "status": 507}])
    assert vcenter.upload(url, vmdk)[0] == 507
    assert vcenter.upload(url, vmdk)[0] == 200
    vcenter.site.vcenter.faults(no_second_upload=True)
    assert vcenter.upload(url, vmdk)[0] == 409
    lease.Abort()


@pytest.mark.parametrize(
    "rule", [{"action": "drop"}, {"every": 2, "at": [1], "action": "drop"}, {"every": 2, "action": "fall"}]
)
def test_rule_that_makes_no_sense_is_refused(vcenter: Vcenter, rule: dict[str, object]) -> None:
    with pytest.raises(ControlError, match="calls:"):
        vcenter.site.vcenter.faults(calls=[rule])


# --- guests that run ----------------------------------------------------------------------------------------------


def test_what_a_guest_writes_is_gone_with_its_snapshot(vcenter: Vcenter, tmp_path: Path) -> None:
    vcenter.site.vcenter.settings(boots={"heartbeat_seconds": 0.1})
    vm = vcenter.vm("boots", [make_vmdk(tmp_path)])

    def done(task: object) -> None:
        wait_until(lambda: task.info.state == "success")  # type: ignore[attr-defined]

    done(vm.CreateSnapshot_Task("s", "", False, False))
    done(vm.PowerOnVM_Task(None))
    wait_until(lambda: vm.guestHeartbeatStatus == "green" and vm.guest.toolsRunningStatus == "guestToolsRunning")
    view = vcenter.site.vcenter.vm("boots")
    assert (view["snapshots"], view["written"]) == (1, True)
    done(vm.PowerOffVM_Task())
    done(vm.RevertToCurrentSnapshot_Task(None, True))
    done(vm.RemoveAllSnapshots_Task(True))
    view = vcenter.site.vcenter.vm("boots")
    assert (view["snapshots"], view["written"], view["power"]) == (0, False, "poweredOff")
