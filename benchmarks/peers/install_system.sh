#!/bin/sh
# Installs what the peers take from the system, where this is root on a Debian and something is missing: nginx with
# Nchan, and the libuv that socketify loads. Where a service manager runs, Debian starts nginx on port 80; the
# comparison runs its own and needs none of that.
set -u
missing=
command -v nginx >/dev/null || missing="$missing nginx"
[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || missing="$missing libnginx-mod-nchan"
ldconfig -p 2>/dev/null | grep -q 'libuv\.so\.1' || missing="$missing libuv1"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing:$missing (install them to compare with every server)"
    exit 0
fi
echo "installing$missing"
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
