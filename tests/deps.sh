#!/usr/bin/env bash
# Installs what the demonstration and the tests need, and only what is missing: Debian packages (as root, or with sudo),
# an AWS API from PyPI, and, where there is no cargo at all, Rust by its own installer. Repeating it changes nothing.
set -euo pipefail

need=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need+=(postgresql)
for pair in haproxy:haproxy pgbouncer:pgbouncer redis-server:redis-server redis-cli:redis-tools redis-sentinel:redis-sentinel named:bind9 nsupdate:bind9-dnsutils dig:bind9-dnsutils ip:iproute2 nft:nftables cc:build-essential curl:curl setpriv:util-linux fsfreeze:util-linux mkfs.ext4:e2fsprogs mount:mount; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
PATH=$PATH:$HOME/.local/bin command -v moto_server >/dev/null || python3 -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
if [ ${#need[@]} -gt 0 ]; then
    sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "these packages are missing: ${need[*]}; install them as root (apt-get install ${need[*]})" >&2
            exit 1
        }
        sudo=(sudo)
    fi
    echo "installing ${need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" apt-get install -y -q --no-install-recommends ca-certificates "${need[@]}"
fi

# An AWS API that judges the form of what is sent to it: a Python package, in an environment of its own.
if ! PATH=$PATH:$HOME/.local/bin command -v moto_server >/dev/null; then
    moto=$HOME/.local/share/mesh-tests/moto
    echo "installing moto below $moto"
    python3 -m venv "$moto"
    "$moto/bin/pip" install --quiet 'moto[server]>=5.2,<6'
    mkdir -p "$HOME/.local/bin"
    ln -sf "$moto/bin/moto_server" "$HOME/.local/bin/moto_server"
fi

# rust-toolchain.toml names the toolchain; rustup fetches it at the first use.
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null; then
    echo "installing Rust with rustup, below $HOME/.cargo and $HOME/.rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal --default-toolchain none
fi
