#!/usr/bin/env bash
# Builds the Debian package: deploy/package.sh [OUT]. OUT is target/debian when left out.
#
# The architecture is the one that cargo builds for: CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu, with that target and
# its linker installed, gives arm64. Manual pages and completions are written by a mesh of this machine (MESH_PAPERS).
# MESH_BINARY names a release build that is packed as it is, without building another. MESH_COMMIT says what is built where
# there is no git to ask, such as in an unpacked archive; the package and `mesh --version` name it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"

out=${1:-target/debian}
binary=${MESH_BINARY:-${CARGO_TARGET_DIR:-target}/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release/mesh}
[ -n "${MESH_BINARY:-}" ] || cargo build --release --locked --package mesh-node --bin mesh
papers=${MESH_PAPERS:-$binary}
# The binary's own word, where it runs here; what was asked of the build, where it is for another machine.
if built=$("$binary" --version 2>/dev/null); then
    commit=$(sed -n 's/.*(commit \([^,]*\),.*/\1/p' <<<"$built")
else
    commit=${MESH_COMMIT:-$(git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || true)}
fi
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
case ${CARGO_BUILD_TARGET:-$(uname -m)} in
    x86_64*) arch=amd64 ;;
    aarch64*) arch=arm64 ;;
    *) echo "no package is made for ${CARGO_BUILD_TARGET:-$(uname -m)}; mesh runs on amd64 and arm64" >&2; exit 1 ;;
esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
put() { install -D -m "$1" "$2" "$root/$3"; }

put 0755 "$binary" usr/bin/mesh
while IFS= read -r unit; do put 0644 "$unit" "lib/systemd/system/${unit#deploy/systemd/}"; done < <(find deploy/systemd -type f)
for file in README.md ARCHITECTURE.md CHANGELOG.md; do put 0644 "$file" "usr/share/doc/mesh/$file"; done
for file in deploy/config/* deploy/monitoring/*; do put 0644 "$file" "usr/share/doc/mesh/examples/$(basename "$file")"; done
for file in deploy/fencers/*; do put 0755 "$file" "usr/share/doc/mesh/examples/fencers/$(basename "$file")"; done
if [ -d deploy/runbooks ]; then
    for file in deploy/runbooks/*; do put 0644 "$file" "usr/share/doc/mesh/runbooks/$(basename "$file")"; done
fi
{ cat LICENSE-MIT; echo; echo "or, as you like:"; echo; cat LICENSE-APACHE; } >"$root/usr/share/doc/mesh/copyright"
chmod 0644 "$root/usr/share/doc/mesh/copyright"
"$papers" papers --dir "$root/usr/share"
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +

mkdir -m 0755 "$root/DEBIAN"
for script in postinst prerm postrm; do put 0755 "deploy/debian/$script" "DEBIAN/$script"; done
# glibc is the one library that is not linked in; the newest version that the binary names is what it needs.
glibc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -Vu | tail -1 | sed 's/GLIBC_//')
cat >"$root/DEBIAN/control" <<CONTROL
Package: mesh
Version: $version
Architecture: $arch
Section: database
Priority: optional
Maintainer: mesh maintainers <maintainers@users.noreply.example>
Depends: libc6 (>= ${glibc:-2.31}), adduser
Recommends: systemd, ca-certificates
Installed-Size: $(du -sk "$root" | cut -f1)
Description: fails PostgreSQL over between sites, and says why
 One agent beside each database host and at each site. Together they agree that
 a primary is lost, fence it, promote the best standby, lead clients to it,
 prove that writes flow, and keep an audit of why.
 .
 Built from ${commit:+commit }${commit:-an unknown commit}.
CONTROL
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/mesh_${version}_$arch.deb"
