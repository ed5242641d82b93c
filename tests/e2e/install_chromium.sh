#!/usr/bin/env bash
# Installs the browser that tests of the report look through, where it is missing and may be installed; starts nothing.
set -uo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
programs=(chromium chromedriver)
packages=(chromium chromium-driver)

complete() { command -v "${programs[@]}" | wc -l | grep -qx "${#programs[@]}"; }
quietly() { DEBIAN_FRONTEND=noninteractive "$@" >/dev/null 2>&1 </dev/null; }
install() { quietly apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=60 "${packages[@]}"; }

complete && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    why="only root can install it, with apt-get"
else
    install || { quietly apt-get update && install; }
    complete && exit 0
    why="apt-get could not install it"
fi
echo "tests: tests/e2e/test_report.py will be skipped in part: Chromium is missing, and $why: ${packages[*]}" >&2
