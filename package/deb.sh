#!/bin/sh
# deb.sh FOLDER PROGRAM [VERSION...]: FOLDER/PROGRAM_VERSION_ARCH.deb of targetd or attachd, for
# the Debian that it is made on. COMPRESSION: as dpkg-deb names it; xz unless said.
set -eu
folder=$1 program=$2
shift 2
source=$(dirname "$(dirname "$(realpath "$0")")")
[ $# -gt 0 ] || set -- "$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/targetd/__init__.py")"
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/$program
doc=$stage/usr/share/doc/$program
umask 022

"$source/package/tree.sh" "$program" "$stage" "/usr/lib/$program" /usr/bin
python=$stage/usr/lib/$program/bin/python3
install -D -m 644 -t "$doc" "$source/README.md" "$source/CHANGELOG.md"
install -D -m 644 "$source/LICENSE" "$doc/copyright"
completions() {
    mkdir -p "$(dirname "$stage/$2")"
    "$python" -I -m targetd.lunctl completion "$1" > "$stage/$2"
}
case $program in
    targetd)
        "$python" -I -m targetd.install --vendor --root "$stage" --bin /usr/bin
        install -D -m 644 -t "$doc/monitoring" "$source"/systemd/monitoring/*
        install -D -m 644 -t "$stage/usr/share/man/man1" "$source/docs/lunctl.1"
        gzip -9n "$stage/usr/share/man/man1/lunctl.1"
        completions bash usr/share/bash-completion/completions/lunctl
        completions zsh usr/share/zsh/vendor-completions/_lunctl
        completions fish usr/share/fish/vendor_completions.d/lunctl.fish
        ;;
    attachd)
        "$python" -I -m targetd.install --attachd --vendor --root "$stage" --bin /usr/bin
        ;;
esac

mkdir "$stage/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$source/package/debian/$program/$script" "$stage/DEBIAN/$script"
done
echo "/etc/$program/$program.toml" > "$stage/DEBIAN/conffiles"
size=$(du -sk --exclude=DEBIAN "$stage" | cut -f1)

mkdir -p "$folder"
for version in "$@"; do
    sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" \
        "$source/package/debian/$program/control" > "$stage/DEBIAN/control"
    dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" -z1 --build "$stage" "$folder/${program}_${version}_$arch.deb"
done
