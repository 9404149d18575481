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
      vapp:
        description:
          - Name of an existing vApp that the VM is put into.
          - Without it a vApp is made with the name of the VM.
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
            description: Name of the network.
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
