# Sourced by tests/run and tests/demo: what they need on a Debian machine that has only python3.

# packages NAME...: install the Debian packages that are missing.
packages() {
    local missing=()
    for name in "$@"; do
        dpkg-query --show --showformat '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0: without ${missing[*]}; as root on Debian, it installs them" >&2
        return
    fi
    echo "Installing ${missing[*]}" >&2
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}") \
        >/dev/null || echo "$0: cannot install ${missing[*]}" >&2
}

# environment DIRECTORY PIP-ARGUMENT...: a virtual environment, filled anew when the arguments change.
environment() {
    local directory=$1 wanted
    shift
    wanted="$(python3 -VV) $* $(for each in "$@"; do [ -f "$each" ] && cat "$each"; done || true)"
    if [ "$(cat "$directory/filled" 2>/dev/null)" != "$wanted" ]; then
        echo "Making $directory" >&2
        rm -rf "$directory"
        python3 -m venv "$directory"
        "$directory/bin/pip" install --quiet --disable-pip-version-check "$@"
        echo "$wanted" >"$directory/filled"
    fi
}
