#!/usr/bin/env bash
# Install what is missing, build, and run every test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

scripts/build.sh --dev
need_packages nftables iptables squid tinyproxy haproxy stunnel4 nginx-light dnsmasq-base unbound nscd dbus-daemon tcpdump \
    openssh-server openssh-client curl openssl git hey musl-tools python3-pip krb5-kdc krb5-admin-server krb5-user \
    util-linux procps systemd
need_unpacked systemd/systemd-resolved systemd-resolved

status=0
scripts/test-unit.sh || status=1
scripts/fuzz.sh 5 || status=1
say "pytest, privileged, in network namespaces; two files side by side"
scripts/test-privileged.sh -n 2 --dist loadfile || status=1
exit $status
