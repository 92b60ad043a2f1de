#!/bin/sh
# Install the Debian packages that a purpose needs, and only those that are missing.
#
#   tools/install-deps.sh PURPOSE...        purposes: build, test, bench, lint (see tools/packages.txt)
#   tools/install-deps.sh --print PURPOSE... print the packages of a purpose, install nothing
#
# Runs on a bare Debian 12: needs /bin/sh, apt and dpkg only. When nothing is missing it is one dpkg-query.
# STREAMIT_SKIP_DEPS=1 skips it, for systems whose packages are managed in another way.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
print_only=no
if [ "${1:-}" = --print ]; then
    print_only=yes
    shift
fi
if [ $# -eq 0 ]; then
    echo "usage: tools/install-deps.sh [--print] PURPOSE...    (build, test, bench, lint)" >&2
    exit 2
fi

wanted=
services=
for purpose in "$@"; do
    found=
    while read -r kind package mark; do
        if [ "$kind" = "$purpose" ]; then
            found="$found $package"
            if [ "$mark" = no-service ]; then
                services="$services $package "
            fi
        fi
    done < "$here/packages.txt"
    if [ -z "$found" ]; then
        echo "install-deps: no packages for purpose '$purpose' in tools/packages.txt" >&2
        exit 2
    fi
    wanted="$wanted$found"
done

if [ "$print_only" = yes ]; then
    for package in $wanted; do
        echo "$package"
    done
    exit 0
fi
if [ "${STREAMIT_SKIP_DEPS:-0}" = 1 ]; then
    exit 0
fi
if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    echo "install-deps: no apt here; make sure that you have what these Debian packages hold:$wanted" >&2
    exit 0
fi

# shellcheck disable=SC2086 # a list of words
installed=" $(dpkg-query -W -f='${db:Status-Status}=${Package} ' $wanted 2> /dev/null || true)"
missing=
for package in $wanted; do
    case $installed in
    *" installed=$package "*) ;;
    *)
        case "$missing " in
        *" $package "*) ;;
        *) missing="$missing $package" ;;
        esac
        ;;
    esac
done
if [ -z "$missing" ]; then
    exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
        echo "install-deps: missing packages, and neither root nor sudo to install them. As root, run:" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

# Services of packages that are installed now: kept from starting by Debian's own switch, and switched off afterwards.
policy=/usr/sbin/policy-rc.d
policy_made=no
new_services=
for package in $missing; do
    case $services in
    *" $package "*) new_services="$new_services $package" ;;
    esac
done
forget_policy()
{
    if [ "$policy_made" = yes ]; then
        $as_root rm -f "$policy"
    fi
}
if [ -n "$new_services" ] && [ ! -e "$policy" ]; then
    policy_made=yes
    trap forget_policy EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" > /dev/null
    $as_root chmod 755 "$policy"
fi

# /dev/null as input and a noninteractive front end: no package may stop to ask.
install_missing()
{
    # shellcheck disable=SC2086 # lists of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 $missing < /dev/null
}

echo "install-deps: installing ($*):$missing"
if ! find /var/lib/apt/lists -name '*Packages*' 2> /dev/null | grep -q . || ! install_missing; then
    echo "install-deps: refreshing the package lists first"
    $as_root apt-get update < /dev/null
    install_missing
fi
for service in $new_services; do
    if command -v systemctl > /dev/null; then
        $as_root systemctl disable "$service.service" > /dev/null 2>&1 || true
    fi
    if command -v update-rc.d > /dev/null; then
        $as_root update-rc.d "$service" disable > /dev/null 2>&1 || true
    fi
done
