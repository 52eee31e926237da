# shellcheck shell=bash
#
# Installs what is missing with the system's package manager; sourced by deploy/quickstart and tests/run.
#
# need_postgres    the server's programs; puts them on PATH. No cluster is made, started or touched.
# need_compiler    cc, for the allocator's C code
# need_python      python3 with venv and pip
# need_node        node and npm, node at least of the version that examples/node asks for
# need_strace      strace
# need_mounts      mkfs.ext4 and setpriv, /dev/fuse, and that a file can be mounted: as root or by sudo, with loop devices
# need_pgbouncer   pgbouncer: on PATH, or below target/. No service is installed, enabled or started.
#
# Each does nothing, and says nothing, if it is there already.

say() { printf '==> %s\n' "$*" >&2; }

# Ends the script: 69 is "something outside is missing" (sysexits.h).
give_up() {
    printf 'error: %s\n' "$*" >&2
    exit 69
}

need_postgres() {
    postgres_on_path && return
    say "installing the Postgres server's programs (no cluster is made or started)"
    trap let_debian_make_clusters_again EXIT
    keep_debian_from_making_a_cluster
    install_packages postgres
    let_debian_make_clusters_again
    trap - EXIT
    postgres_on_path || give_up "the Postgres server's programs (initdb, postgres) are not where packages put them: add their directory to PATH"
}

need_compiler() {
    command -v cc >/dev/null && return
    say "installing a C compiler"
    install_packages compiler
    command -v cc >/dev/null || give_up "there is no C compiler: install one that answers to cc"
}

need_python() {
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
    say "installing python3 with venv and pip"
    install_packages python
    python3 -c 'import ensurepip, venv' || give_up "python3 has no venv: install it"
}

need_node() {
    node_is_new_enough && return
    say "installing node and npm"
    install_packages node
    node_is_new_enough || give_up "node $(node_wanted) or later with npm is needed: install it"
}

node_is_new_enough() {
    command -v npm >/dev/null && [ "$(node --print 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge "$(node_wanted)" ]
}

node_wanted() {
    sed -n 's/.*"node": ">=\([0-9]*\)".*/\1/p' examples/node/package.json
}

need_strace() {
    command -v strace >/dev/null && return
    say "installing strace"
    install_packages strace
    command -v strace >/dev/null || give_up "there is no strace: install it"
}

need_mounts() {
    PATH="$PATH:/usr/sbin:/sbin"
    if ! command -v mkfs.ext4 >/dev/null || ! command -v setpriv >/dev/null; then
        say "installing mkfs.ext4 and setpriv"
        install_packages mounts
    fi
    [ -c /dev/fuse ] || give_up "there is no /dev/fuse, which the tests of power cuts below a file system need"
    local home
    home=$(mktemp -d) || give_up "there is no room in ${TMPDIR:-/tmp}"
    if ! mounts_a_file "$home"; then
        rm -r "$home"
        give_up "a small file system can't be mounted here, which the tests of full and read-only disks need: run them as root, or with sudo without a password, on a machine or in a container that may mount and has loop devices"
    fi
    rm -r "$home"
}

mounts_a_file() {
    mkdir "$1/root" && truncate -s 8M "$1/image" && mkfs.ext4 -q -F "$1/image" &&
        as_root mount -o loop "$1/image" "$1/root" && as_root umount "$1/root"
}

need_pgbouncer() {
    PATH="$PATH:/usr/sbin:$PWD/target/pgbouncer/usr/sbin"
    command -v pgbouncer >/dev/null && return
    if [ "$(package_manager)" = apt ]; then
        say "unpacking pgbouncer below target/ (no service is installed)"
        unpack_pgbouncer target/pgbouncer
    else
        say "installing pgbouncer"
        install_packages pgbouncer
    fi
    pgbouncer --version >/dev/null || give_up "there is no pgbouncer: install it"
}

# Debian's package enables and starts a service: only its files are taken, and the libraries it names.
unpack_pgbouncer() {
    local directory=$1 libraries
    mkdir -p "$directory"
    as_root apt-get update -qq || give_up "apt could not update its lists: see above"
    (cd "$directory" && rm -f ./*.deb && apt-get download -qq -o APT::Sandbox::User=root pgbouncer) || give_up "apt could not download pgbouncer: see above"
    dpkg-deb -x "$directory"/pgbouncer_*.deb "$directory" || give_up "pgbouncer's package can't be unpacked: see above"
    libraries=$(dpkg-deb -f "$directory"/pgbouncer_*.deb Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ |(]*\).*/\1/p')
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $libraries >/dev/null ||
        give_up "apt could not install what pgbouncer needs: see above"
}

postgres_on_path() {
    local directory
    while read -r directory; do
        if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
            export PATH="$directory:$PATH"
            return 0
        fi
    done < <(postgres_directories)
    return 1
}

# Where the packages of each system put the server, the newest version first.
postgres_directories() {
    pg_config --bindir 2>/dev/null || true
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin | sort -Vr
    printf '%s\n' "$PATH" | tr ':' '\n'
}

# Debian's server packages make and start a cluster unless they are told not to.
debian_drop_in=/etc/postgresql-common/createcluster.d/forebay.conf

keep_debian_from_making_a_cluster() {
    [ "$(package_manager)" = apt ] || return 0
    as_root mkdir -p "${debian_drop_in%/*}"
    printf 'create_main_cluster = false\n' | as_root tee "$debian_drop_in" >/dev/null
}

# What an administrator installs later is not our business.
let_debian_make_clusters_again() {
    [ "$(package_manager)" = apt ] || return 0
    as_root rm -f "$debian_drop_in"
}

install_packages() {
    local manager packages
    manager=$(package_manager)
    packages=$(packages_for "$manager" "$1") || give_up "don't know how to install $1 here: please install it, then run this again"
    # shellcheck disable=SC2086 # a list of names
    case $manager in
    apt)
        as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
        ;;
    dnf) as_root dnf install -q -y $packages ;;
    apk) as_root apk add -q --no-progress $packages ;;
    pacman) as_root pacman -Sy --noconfirm --needed $packages ;;
    zypper) as_root zypper --non-interactive --quiet install $packages ;;
    brew) brew install --quiet $packages ;;
    esac || give_up "$manager could not install $packages: see above"
}

packages_for() {
    case $1:$2 in
    apt:postgres | apk:postgres | pacman:postgres) echo postgresql ;;
    dnf:postgres | zypper:postgres) echo postgresql-server ;;
    brew:postgres) echo postgresql@17 ;;
    apt:compiler) echo gcc libc6-dev ;;
    apk:compiler) echo gcc musl-dev ;;
    dnf:compiler | pacman:compiler | zypper:compiler) echo gcc ;;
    apt:python) echo python3-venv python3-pip ;;
    dnf:python | zypper:python) echo python3 python3-pip ;;
    apk:python) echo python3 py3-pip ;;
    pacman:python) echo python python-pip ;;
    brew:python) echo python3 ;;
    apt:node | dnf:node | apk:node | pacman:node | zypper:node) echo nodejs npm ;;
    brew:node) echo node ;;
    apt:mounts | dnf:mounts | pacman:mounts | zypper:mounts) echo e2fsprogs util-linux ;;
    apk:mounts) echo e2fsprogs setpriv ;;
    dnf:pgbouncer | apk:pgbouncer | pacman:pgbouncer | zypper:pgbouncer | brew:pgbouncer) echo pgbouncer ;;
    apt:strace | dnf:strace | apk:strace | pacman:strace | zypper:strace) echo strace ;;
    *) return 1 ;;
    esac
}

package_manager() {
    local found
    for found in apt-get dnf apk pacman zypper brew; do
        if command -v "$found" >/dev/null; then
            echo "${found%-get}"
            return
        fi
    done
    echo none
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        give_up "need to be root, or sudo, for: $*"
    fi
}

# Cargo of at least the version that Cargo.toml asks for, on PATH; its installer is the user's to run.
need_cargo() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [ -d "$HOME/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || found=
    if [ -z "$found" ]; then
        printf 'There is no cargo. This installs it:\n\n' >&2
    elif [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
        printf 'cargo %s is older than %s. This installs a newer one:\n\n' "$found" "$wanted" >&2
    else
        return 0
    fi
    printf "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\"\n\n" >&2
    exit 69
}
