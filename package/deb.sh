#!/bin/sh
# deb.sh FOLDER [VERSION...]: FOLDER/targetd_VERSION_ARCH.deb, for the Debian that it is made on.
set -eu
folder=$1
shift
source=$(dirname "$(dirname "$(realpath "$0")")")
[ $# -gt 0 ] || set -- "$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/targetd/__init__.py")"
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/targetd
umask 022

"$source/package/tree.sh" "$stage" /usr/lib/targetd /usr/bin
"$stage/usr/lib/targetd/bin/python3" -I -m targetd.install --vendor --root "$stage" --bin /usr/bin
install -D -m 644 -t "$stage/usr/share/doc/targetd" "$source/README.md" "$source/CHANGELOG.md"
install -D -m 644 "$source/LICENSE" "$stage/usr/share/doc/targetd/copyright"
install -D -m 644 -t "$stage/usr/share/doc/targetd/monitoring" "$source"/systemd/monitoring/*
install -D -m 644 -t "$stage/usr/share/man/man1" "$source/docs/lunctl.1"
gzip -9n "$stage/usr/share/man/man1/lunctl.1"
completions() {
    mkdir -p "$(dirname "$stage/$2")"
    "$stage/usr/lib/targetd/bin/python3" -I -m targetd.lunctl completion "$1" > "$stage/$2"
}
completions bash usr/share/bash-completion/completions/lunctl
completions zsh usr/share/zsh/vendor-completions/_lunctl
completions fish usr/share/fish/vendor_completions.d/lunctl.fish

mkdir "$stage/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$source/package/debian/$script" "$stage/DEBIAN/$script"
done
echo /etc/targetd/targetd.toml > "$stage/DEBIAN/conffiles"
size=$(du -sk --exclude=DEBIAN "$stage" | cut -f1)

mkdir -p "$folder"
for version in "$@"; do
    sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" \
        "$source/package/debian/control" > "$stage/DEBIAN/control"
    dpkg-deb --root-owner-group -Zxz -z1 --build "$stage" "$folder/targetd_${version}_$arch.deb"
done
