#!/bin/sh
# Print the first of the named interpreters that will do: `sh tests/interpreters/find.sh [PYTHON...]`.
# Each is tried, not looked up: a name may stand for a version that is not there.
[ $# -gt 0 ] || set -- python3.11 python3 python3.14 python3.13 python3.12
for python in "$@"; do
    "$python" -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        && echo "$python" && exit
done
echo "No Python 3.11 or later with venv among: $*. Name one: make PYTHON=/path/to/python3 ...;" \
    "on Debian and Ubuntu: apt-get install python3-venv" >&2
exit 2
