#!/usr/bin/env bash
# Run make targets on the Python of another Debian suite, as root on a Debian:
# `bash tests/interpreters/debian.sh SUITE VERSION [TARGET...]`.
#
# That suite's files are in target/debian-SUITE, the environment of its Python in
# .venv-debian-SUITE; Rust is the machine's own. Mounts are seen by this process and its
# children alone, and vanish with them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

die() {
    echo "tests/interpreters/debian.sh: $*" >&2
    exit 2
}

inside=
if [ "${1:-}" = --inside ]; then
    inside=yes
    shift
fi
[ $# -ge 2 ] || die "usage: debian.sh SUITE VERSION [TARGET...]"
suite=$1 version=$2
[ "$(id -u)" = 0 ] || die "needs root, for a root directory and mounts of its own"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
command -v rustc >/dev/null || die "Rust is missing: no rustc"
[ "$inside" ] || exec unshare --mount bash tests/interpreters/debian.sh --inside "$@"
shift 2

# mirror: where this machine has Debian's packages from. That has the other suites too.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(SITE)' 'Created-By: Packages' \
        | awk -F '|' '$1 == "Debian" && $2 == "Debian" && !found++ { print $3 }'
}

root=$PWD/target/debian-$suite
log=target/debian-$suite.log
python=python$version
packages=$python,$python-venv,$python-dev,lib$python-testsuite
packages=$packages,gcc,libc6-dev,make,procps,ca-certificates

if [ ! -e "$root/.complete-$version" ]; then
    # Made anew: debootstrap cannot go on with what it left half done.
    rm -rf "$root"
    scripts=/usr/share/debootstrap/scripts
    # An older debootstrap does not know a newer suite; they are all made alike.
    [ -e "$scripts/$suite" ] && script=$suite || script=sid
    echo "debootstrap: $suite with Python $version, see $log"
    from=${DEBIAN_MIRROR:-$(mirror)}
    [ "$from" ] || die "no mirror in this machine's apt sources: say which by DEBIAN_MIRROR"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" \
        "$from" "$scripts/$script" >"$log" 2>&1 \
        || die "debootstrap failed: $(tail -n 1 "$log")"
    touch "$root/.complete-$version"
fi

# show FROM TO: what the machine has at FROM is at TO inside, if it is there at all.
show() {
    [ -e "$1" ] || return 0
    if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
    mount --rbind "$1" "$root$2"
}

show "$PWD" /flask-delay
show "$(rustc --print sysroot)" /opt/rust
show "${CARGO_HOME:-$HOME/.cargo}" /opt/cargo
for path in /dev /proc /etc/resolv.conf /etc/hosts /etc/ssl/certs /etc/pip.conf; do
    show "$path" "$path"
done
mount -t tmpfs tmpfs "$root/tmp"

# A target directory of its own: what Cargo runs while it builds is linked against this
# suite's libc.
exec chroot "$root" /usr/bin/env --chdir=/flask-delay \
    HOME=/root LANG=C.UTF-8 PIP_FIND_LINKS= PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CARGO_HOME=/opt/cargo CARGO_TARGET_DIR=/opt/target \
    make --no-print-directory VENV=".venv-debian-$suite" PYTHON="$python" "${@:-test-python}"
