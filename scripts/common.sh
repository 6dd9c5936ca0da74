# Shared by the scripts beside it: words on the terminal, packages, the Rust toolchain. Sourced, never run.
# shellcheck shell=bash

say() { printf '\033[1m==>\033[0m %s\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo > /dev/null; then sudo "$@"
    else die "this needs root: $*"; fi
}

# need_packages PACKAGE...: install those Debian packages that are missing, without starting their services.
need_packages() {
    local missing=() package
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get > /dev/null || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d mine=no
    if [ ! -e $policy ]; then
        mine=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy > /dev/null
        as_root chmod +x $policy
    fi
    local failed=no
    as_root env DEBIAN_FRONTEND=noninteractive sh -euc '
        apt-get -qq -y --no-install-recommends install "$@" > /dev/null 2>&1 ||
        { apt-get -qq update && apt-get -qq -y --no-install-recommends install "$@" > /dev/null; }' sh "${missing[@]}" ||
        failed=yes
    [ $mine = no ] || as_root rm -f $policy
    [ $failed = no ] || die "could not install ${missing[*]}"
}

# need_unpacked PROGRAM PACKAGE: unpack PACKAGE below target/parts/ unless the machine has /usr/lib/PROGRAM: for a package
# whose installation would change how the machine works.
need_unpacked() {
    local program=$1 package=$2 parts=target/parts
    [ -x "/usr/lib/$program" ] || [ -x "$parts/usr/lib/$program" ] || [ -x "$parts/lib/$program" ] && return
    say "unpacking $package into $parts"
    mkdir -p "$parts"
    (cd "$parts" && rm -f "$package"_*.deb && apt-get -qq download "$package" > /dev/null 2>&1 &&
        dpkg -x "$package"_*.deb .) || die "could not fetch $package"
}

rust_is_new_enough() {
    local version
    version=$(rustc --version 2> /dev/null | cut -d' ' -f2) || return 1
    [ -n "$version" ] && [ "$(printf '%s\n' 1.91 "$version" | sort -V | head -n1)" = 1.91 ] && command -v cargo > /dev/null
}

# need_rust: find or install Rust 1.91 or newer (Debian's own rustc is older).
need_rust() {
    PATH="$HOME/.cargo/bin:$PATH"
    export PATH
    rust_is_new_enough && return
    if ! command -v rustup > /dev/null && apt-cache policy rustup 2> /dev/null | grep -q 'Candidate: [0-9]'; then
        need_packages rustup
    fi
    say "installing a Rust toolchain with rustup"
    if command -v rustup > /dev/null; then
        rustup toolchain install stable --profile minimal --component clippy --component rustfmt > /dev/null 2>&1 || true
        export RUSTUP_TOOLCHAIN=stable
    else
        need_packages curl ca-certificates
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs 2> /dev/null |
            sh -s -- -y --quiet --profile minimal --component clippy --component rustfmt > /dev/null 2>&1 || true
    fi
    hash -r
    rust_is_new_enough || die "Rust 1.91 or newer is needed, and could not be installed from here.
  found: $(rustc --version 2> /dev/null || echo none)
  install rustup by hand (rustup.rs says how), then run this again"
}

# find_python: print a python3 of version 3.11 or newer.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed (Debian 12 and Ubuntu 24.04 have it as python3)"
}
