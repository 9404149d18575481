# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the connection to the gateway, and of what templates and migrations have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents the options that the module utility ``_argspec`` declares."""

    DOCUMENTATION = r"""
options:
  gateway_url:
    description:
      - Address of the gateway, such as V(https://gateway.example.com:8443).
      - Only C(https) is accepted, and nothing may follow the port.
      - If not set, the environment variable E(COLDMIG_GATEWAY_URL) is used.
    type: str
    required: true
  gateway_token:
    description:
      - Token of the provider (C(cm1_pro_…)) or of an organization (C(cm1_org_…)). An organization sees and changes its
        own things only.
      - If not set, the environment variable E(COLDMIG_GATEWAY_TOKEN) is used.
    type: str
    required: true
  gateway_ca_path:
    description:
      - PEM file with the CA of the site. Without it the CA certificates of the system are trusted.
      - If not set, the environment variable E(COLDMIG_GATEWAY_CA) is used.
    type: path
  timeout:
    description: Seconds to wait for a connection to the gateway, and for each part of an answer.
    type: int
    default: 30
requirements:
  - requests
"""

    DESTINATION = r"""
options:
  destination:
    suboptions:
      vdc:
        description: Name of the organization VDC.
        type: str
        required: true
      storage_profile:
        description: Name of the storage profile. Without it the default one of the VDC is used.
        type: str
      import_as:
        description:
          - V(vapp) gives the VM a vApp of its own.
          - V(shared) puts it into the vApp with the name O(destination.vapp), which is made if it is not there. So
            several machines arrive in one vApp.
          - V(existing) puts it into a vApp that is there.
          - V(standalone) makes a VM without a vApp.
          - Default is V(existing) if O(destination.vapp) is given, else V(vapp).
        type: str
        choices:
          - vapp
          - shared
          - existing
          - standalone
      vapp:
        description:
          - Name of the vApp. V({name}) is the name of the migration, V({serial}) the serial number of the machine,
            V({id}) the first eight characters of the migration's id, V({template}) the name of the template.
          - A vApp of its own is named like the VM without it. If the name is taken there, the migration's id is added.
          - Needed with V(shared) and V(existing), not allowed with V(standalone).
        type: str
      description:
        description: Description of the VM and of a vApp that is made. Without it they name the migration.
        type: str
      owner:
        description:
          - Name of the user of the organization who gets the vApp. Without it only administrators of the organization
            see it, unless the provider names one.
          - Not used with a vApp that was there before.
        type: str
      metadata:
        description:
          - Metadata of the VM, texts that the organization can see and change.
          - Keys must not begin with C(coldmig.).
        type: dict
        default: {}
      disks:
        description:
          - What each disk of the source needs, in the order of the disks.
          - A disk without an entry is kept in the storage profile of the VM.
        type: list
        elements: dict
        default: []
        suboptions:
          storage_profile:
            description: Name of the storage profile of this disk.
            type: str
      networks:
        description:
          - Where each NIC of the source is connected, in the order of the NICs.
          - A NIC without an entry arrives disconnected.
        type: list
        elements: dict
        default: []
        suboptions:
          network:
            description: Name of the network, or V(none) for a NIC that is on no network.
            type: str
            required: true
          ip_mode:
            description: How the NIC gets its address in VCD.
            type: str
            choices:
              - DHCP
              - POOL
              - MANUAL
              - NONE
            default: DHCP
          ip:
            description: The address, with O(destination.networks[].ip_mode=MANUAL) and no other mode.
            type: str
          keep_mac:
            description: Give the NIC the permanent MAC address of the source.
            type: bool
            default: false
          connected:
            description: Whether the NIC is connected.
            type: bool
            default: true
          adapter:
            description: Kind of this network adapter. Without it that of the virtual hardware.
            type: str
            choices:
              - vmxnet3
              - e1000e
              - e1000
"""

    HARDWARE = r"""
options:
  hardware:
    suboptions:
      guest_id:
        description: Guest id of vSphere, such as V(debian12_64Guest).
        type: str
      firmware:
        description: Firmware of the VM.
        type: str
        choices:
          - bios
          - efi
      secure_boot:
        description: Whether Secure Boot is on. Only with EFI.
        type: bool
      disk_controller:
        description: Kind of controller for all disks.
        type: str
        choices:
          - pvscsi
          - lsilogic-sas
          - ahci
          - nvme
          - lsilogic
          - ide
      nic_type:
        description: Kind of all network adapters.
        type: str
        choices:
          - vmxnet3
          - e1000e
          - e1000
      cpus:
        description: Number of virtual processors, the cores of all sockets together.
        type: int
      cores_per_socket:
        description: Cores of each socket; O(hardware.cpus) must be a multiple of it.
        type: int
      memory_mb:
        description: Memory in MiB, a multiple of 4.
        type: int
"""
