"""proxyvpn carries every TCP connection of a Linux machine through an HTTP CONNECT proxy.

Three processes: `app` (the user's, no privilege) starts and supervises `helper` (CAP_NET_ADMIN: the TUN, routes, rules
and the firewall) and `worker` (no privilege: packets to CONNECT). docs/architecture.md tells the rest.
"""
