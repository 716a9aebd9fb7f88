#!/bin/sh
# tree.sh PROGRAM DESTDIR PREFIX BINDIR: targetd or attachd, with all that it needs of Python,
# below DESTDIR/PREFIX, as it will be found at PREFIX; its commands in DESTDIR/BINDIR.
#
# Debian's own grpcio (1.51) is too old for the generated stubs, so each brings its own.
set -eu
program=$1 destination=$2 prefix=$3 commands=$4
case $program in
    targetd) extra="" names="targetd lunctl" ;;
    attachd) extra=--extra=attachd names=attachd ;;
    *) echo "tree.sh: targetd or attachd, not $program" >&2; exit 2 ;;
esac
# The system's own: the tree refers to it.
python=/usr/bin/python3
source=$(dirname "$(dirname "$(realpath "$0")")")
tree=$destination$prefix
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The tools that make the tree are not in it.
"$python" -m venv "$work/tools"
tool() { "$work/tools/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
"$python" "$source/package/locked.py" setuptools > "$work/tools.txt"
"$python" "$source/package/locked.py" $extra > "$work/locked.txt"
tool install --require-hashes --requirement "$work/tools.txt"

# A copy: setuptools writes beside what it reads.
mkdir "$work/source"
(cd "$source" &&
    cp -R targetd attachd drivers systemd pyproject.toml README.md LICENSE "$work/source")
tool wheel --no-deps --no-build-isolation --wheel-dir "$work" "$work/source"

rm -rf "$tree"
"$python" -m venv --without-pip "$tree"
into() { tool --python "$tree/bin/python3" install --no-compile --no-deps "$@"; }
into --require-hashes --requirement "$work/locked.txt"
into "$work"/targetd-*.whl
# How it was made is nobody's business, and only its own commands are wanted.
sed -i '/^command = /d' "$tree/pyvenv.cfg"
mkdir "$work/kept"
for name in $names; do
    mv "$tree/bin/$name" "$work/kept"
done
find "$tree/bin" -type f -delete
mv "$work/kept"/* "$tree/bin"
# Byte code that names its sources as they will be found, and is never out of date.
"$tree/bin/python3" -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -s "$destination" -p / "$tree/lib"

mkdir -p "$destination$commands"
for name in $names; do
    # -I: nothing of the caller's environment or folder gets into a program of root's.
    sed -i "1s|.*|#!$prefix/bin/python3 -I|" "$tree/bin/$name"
    ln -sf "$prefix/bin/$name" "$destination$commands/$name"
done
