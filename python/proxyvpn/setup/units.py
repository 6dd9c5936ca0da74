"""The systemd units of `proxyvpn setup --systemd`, as text: systemd.socket(5), systemd.service(5), systemd.exec(5).

Instead of a file with a capability, systemd starts a helper for each connection, as a user that exists only meanwhile:
it cannot be signalled, traced or limited by the user who asked for it, and its bounding set is cut for good.

What is missing in the list of restrictions is missing for a reason: the helper writes /proc/sys/net (so no
ProtectKernelTunables, no ProcSubset), works in the machine's own network (no PrivateNetwork, no PrivateUsers), and
opens /dev/net/tun (no PrivateDevices; every other device is closed).
"""

from __future__ import annotations

from typing import Final

from proxyvpn.places import PYTHON, SOCKET, START, UNIT, UNITS

FIRST_LINE: Final = "# Written by `proxyvpn setup --systemd`; `proxyvpn setup --uninstall` takes it away."
SOCKET_UNIT: Final = f"{UNITS}/{UNIT}.socket"
SERVICE_UNIT: Final = f"{UNITS}/{UNIT}@.service"

_SOCKET: Final = """{first}
[Unit]
Description=proxyvpn's helper: a connection from group {group} starts one
Documentation=man:systemd.socket(5)

[Socket]
ListenSequentialPacket={socket}
SocketUser=root
SocketGroup={group}
SocketMode=0660
Accept=yes
MaxConnections=16
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

_SERVICE: Final = """{first}
[Unit]
Description=proxyvpn's helper for one connection
CollectMode=inactive-or-failed

[Service]
ExecStart={python} -I -S -B {start}
StandardInput=socket
StandardOutput=null
StandardError=journal
Environment=LC_ALL=C.UTF-8
TimeoutStopSec=10

DynamicUser=yes
SupplementaryGroups={group}
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes

DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
IPAddressDeny=any
KeyringMode=private
LimitCORE=0
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=capset
UMask=0077
"""


def texts(group: str) -> dict[str, str]:
    """Give each unit's text by its path."""
    words = {"first": FIRST_LINE, "group": group, "socket": SOCKET, "python": PYTHON, "start": START}
    return {SOCKET_UNIT: _SOCKET.format(**words), SERVICE_UNIT: _SERVICE.format(**words)}


def ours(text: str) -> bool:
    """Say whether a unit file is one that we wrote."""
    return text.startswith(FIRST_LINE)
