# Sourced by tests/run and tests/demo: what they need on a Debian machine that has only python3.

# packages NAME...: install the Debian packages that are missing; those that could not be are in $lacking.
lacking=()
packages() {
    local name missing=()
    for name in "$@"; do
        installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Installing ${missing[*]}" >&2
        # One by one when not all can be had: one that is missing shall not take the others with it.
        apt-get update -qq >&2 || true
        fetch "${missing[@]}" || for name in "${missing[@]}"; do fetch "$name" || true; done
    fi
    for name in "${missing[@]}"; do
        installed "$name" || lacking+=("$name")
    done
    # Said again at the end by who asks for more than it needs.
    [ ${#lacking[@]} -eq 0 ] || echo "$0: without ${lacking[*]}; as root on Debian, it installs them" >&2
}

installed() {
    dpkg-query --show --showformat '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

fetch() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
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
