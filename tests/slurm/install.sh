#!/usr/bin/env bash
# Installs what the tests of this folder need where that is missing and may be done; starts none of it.
set -uo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
programs=(slurmctld slurmd sbatch munged slurmdbd mariadbd ip unshare nsenter)
packages=(slurm-wlm munge slurmdbd mariadb-server-core iproute2 util-linux)

complete() { command -v "${programs[@]}" | wc -l | grep -qx "${#programs[@]}"; }

# Services stay down: RUNLEVEL=1 is for init scripts; systemd, where it runs, is put out of the installation's sight.
quietly() {
    local hidden=()
    [ -d /run/systemd/system ] && hidden=(unshare --mount sh -c 'mount -t tmpfs tmpfs /run/systemd && exec "$@"' sh)
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive "${hidden[@]}" "$@" >/dev/null 2>&1 </dev/null
}

install() { quietly apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=60 "${packages[@]}"; }

complete && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    why="only root can install it, with apt-get"
else
    install || { quietly apt-get update && install; }
    complete && exit 0
    why="apt-get could not install it"
fi
echo "tests: tests/slurm will be skipped: Slurm is missing or incomplete, and $why: ${packages[*]}" >&2
