# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the virtual hardware that come before the template's."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents ``vm_hardware_options`` of the module utility ``_argspec``."""

    DOCUMENTATION = r"""
options:
  guest_id:
    description: Guest type, such as V(debian12_64Guest), instead of the one chosen.
    type: str
  firmware:
    description: Firmware instead of the one that the system boots with.
    type: str
    choices:
      - bios
      - efi
  secure_boot:
    description: Whether Secure Boot is on, instead of as in the source. It needs EFI firmware.
    type: bool
  controller:
    description: Disk controller instead of the one chosen.
    type: str
    choices:
      - pvscsi
      - lsilogic-sas
      - ahci
      - nvme
      - lsilogic
      - ide
  nic_type:
    description: Network card instead of the one chosen.
    type: str
    choices:
      - vmxnet3
      - e1000e
      - e1000
  num_cpus:
    description: Number of virtual CPUs instead of the source's cores.
    type: int
  cores_per_socket:
    description: Cores per socket instead of the source's.
    type: int
  memory_mb:
    description: Memory in MB instead of the source's. It is rounded up to 4 MB.
    type: int
"""
