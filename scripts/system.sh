#!/bin/sh
# See to it that the tests find a Docker engine with a base image in it, Open MPI, sshd, Slurm and a registry. Installs by apt what
# is missing and starts dockerd if no engine answers; never stops or changes one that runs. What it can't do it says, and goes on:
# the tests that need it are skipped then, and in CI they fail.
set -u
cd "$(dirname "$0")/.."
cache=${MUSTER_TOOLS:-.muster/tools}
mkdir -p "$cache"
PATH=$PATH:/usr/sbin:/sbin

say() { echo "system: $*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif has sudo; then sudo -n "$@"; else return 1; fi
}

engine_answers() {
    .venv/bin/python -c 'import docker; docker.from_env(timeout=10).ping()' >/dev/null 2>&1
}

apt_update() {
    [ -n "${updated:-}" ] || as_root apt-get update -qq >>"$cache/apt.log" 2>&1
    updated=yes
}

install() {
    say "installing $*"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$cache/apt.log" 2>&1 ||
        say "can't install $*; as root: apt-get install $*  (what it said: $cache/apt.log)"
}

# The registry is unpacked, not installed: installing it would start a service.
unpack_registry() {
    say "fetching docker-registry"
    apt_update
    (cd "$cache" && apt-get download -qq docker-registry && dpkg -x docker-registry_*.deb registry && rm docker-registry_*.deb) \
        >>"$cache/apt.log" 2>&1 || say "can't fetch docker-registry; tests of registries can't run  (what it said: $cache/apt.log)"
}

# The tests start their own Slurm: what installing these starts as services is stopped again.
install_slurm() {
    new=
    for part in slurmctld slurmd slurmdbd munge:munged slurm-client:sbatch mariadb-server:mariadbd; do
        has "${part#*:}" || new="$new ${part%:*}"
    done
    [ -n "$new" ] || return 0
    # shellcheck disable=SC2086 # one word each
    install $new
    [ -d /run/systemd/system ] || return 0
    for package in $new; do
        as_root systemctl disable --quiet --now "${package%-server}" >>"$cache/apt.log" 2>&1 || true
    done
}

start_engine() {
    [ -z "${DOCKER_HOST:-}" ] || { say "no engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST"; return; }
    has dockerd || { say "there is no dockerd to start"; return; }
    say "starting dockerd; its log is $cache/dockerd.log"
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker >>"$cache/dockerd.log" 2>&1 || true
    elif [ "$(id -u)" = 0 ]; then
        .venv/bin/python scripts/daemon.py "$cache/dockerd.log" dockerd
    elif has sudo; then
        .venv/bin/python scripts/daemon.py "$cache/dockerd.log" sudo -n dockerd
    fi
    tries=0
    until engine_answers; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || { say "no engine answers; the end of its log: $(tail -n 3 "$cache/dockerd.log")"; return; }
        sleep 1
    done
}

if has apt-get; then
    missing=
    engine_answers || has dockerd || missing="docker.io iptables"
    has mpirun || missing="$missing openmpi-bin"
    has debootstrap || missing="$missing debootstrap"
    has sshd || missing="$missing openssh-server openssh-client"
    { has ip && has unshare; } || missing="$missing iproute2 util-linux"
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
    # shellcheck disable=SC2086 # one word each
    [ -z "$missing" ] || install $missing
    install_slurm
    has docker-registry || [ -x "$cache/registry/usr/bin/docker-registry" ] || unpack_registry
fi
engine_answers || start_engine
if engine_answers; then
    .venv/bin/python scripts/base_image.py >/dev/null || say "tests with containers can't run without a base image"
fi
