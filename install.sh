#!/bin/sh
# Installs Tether from this clone, or tries it out without installing anything. See: ./install.sh --help
set -eu

usage() {
    cat <<'END'
usage: ./install.sh --try [--keep]           try it: a throw-away daemon, a real model, an answer
       ./install.sh --user                   install for this user, below ~/.local
       ./install.sh --system [--enable]      install for this machine, with a systemd service (root)
       ./install.sh --uninstall [--purge]    remove what --user installed (as root: what --system installed)

  --keep      leave the daemon of --try running
  --enable    start the service now and at every boot
  --purge     remove models, caches and settings too
  --dry-run   only print what would be done
END
}

say() { printf '%s\n' "$*"; }

fail() {
    # what and why, then what to do
    printf 'install.sh: %s\n  fix: %s\n' "$1" "$2" >&2
    exit 1
}

act() {
    if [ "$dry" = yes ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

done_if_dry() {
    if [ "$dry" = yes ]; then
        say '(dry run: nothing was done)'
        exit 0
    fi
}

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$name" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$name cannot make virtual environments" "apt-get install $name-venv (or your system's like)"
            command -v "$name"
            return
        fi
    done
    fail 'Tether needs Python 3.11 or newer, and none of python3.13, python3.12, python3.11, python3 is' \
        'install one, for example with: apt-get install python3 python3-venv'
}

install_into() {
    # An environment in $1 with this clone's Tether in it. Doing it again brings it up to date.
    python=$(find_python)
    if [ "$dry" = yes ] || ! "$1/bin/python" -c '' 2>/dev/null; then
        act mkdir -p "$(dirname "$1")"
        act "$python" -m venv --clear "$1"
    fi
    act "$1/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$here"
}

link() {
    # $2 -> $1, unless something else stands there
    if [ -e "$2" ] && [ ! -L "$2" ]; then
        fail "$2 is there already and is not a link" "move it away and run this again"
    fi
    act mkdir -p "$(dirname "$2")"
    act ln -sfn "$1" "$2"
}

put() {
    act mkdir -p "$(dirname "$2")"
    act cp "$1" "$2"
}

unlink_if_ours() {
    # Remove the link $1 if it leads below $2.
    case $(readlink "$1" 2>/dev/null || :) in
        "$2"/*) act rm -f "$1" ;;
    esac
}

# --- try -------------------------------------------------------------------------------------------------------------

daemon=''
work=''

clean_up() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || :
        wait "$daemon" 2>/dev/null || :
    fi
    if [ -n "$work" ]; then
        rm -rf "$work"
    fi
}

try() {
    began=$(date +%s)
    say "preparing $here/.try (the first time takes a minute)"
    install_into "$here/.try/venv"
    bin=$here/.try/venv/bin
    if [ "$dry" = yes ]; then
        say "+ start tetherd with throw-away directories on a free port of 127.0.0.1"
        say "+ tetherctl models push models/digits"
        say "+ tetherctl infer digits < models/digits/example.json"
        return
    fi
    # Not below the clone: a socket's path may have 107 bytes.
    work=$(mktemp -d "${TMPDIR:-/tmp}/tether.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    start_daemon
    say
    say '$ tetherctl models push models/digits'
    ctl models push "$here/models/digits"
    say
    say '$ tetherctl infer digits < models/digits/example.json'
    ctl infer digits <"$here/models/digits/example.json"
    say
    say "That was a real model on a real daemon, $(($(date +%s) - began)) s after the start."
    what_next
}

start_daemon() {
    port=$("$bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    # Under nohup and with its own standard input, so that --keep can leave it behind.
    nohup "$bin/tetherd" run --log-format json --set node.name=try --set "node.state_dir=$work/state" \
        --set "node.cache_dir=$work/cache" --set "node.runtime_dir=$work/run" \
        --set "gateway.listen=127.0.0.1:$port" </dev/null >"$work/log" 2>&1 &
    daemon=$!
    say "starting tetherd (pid $daemon) on http://127.0.0.1:$port"
    tries=0
    until is_ready; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$daemon" 2>/dev/null; then
            cat "$work/log" >&2
            fail 'tetherd did not become ready; its log is above' 'see what it says, and report it if it makes no sense'
        fi
        sleep 0.1
    done
}

is_ready() {
    "$bin/python" - "$port" 2>/dev/null <<'END'
import sys, urllib.request
urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health/ready", timeout=2)
END
}

ctl() {
    "$bin/tetherctl" --endpoint "unix://$work/run/control.sock" "$@"
}

what_next() {
    if [ "$keep" = yes ]; then
        say
        say 'The daemon keeps running. Type next:'
        say "  export PATH=$bin:\$PATH TETHER_ENDPOINT=unix://$work/run/control.sock"
        say '  tetherctl status'
        say '  tetherctl models show digits'
        say "  curl http://127.0.0.1:$port/v2/models/digits"
        say "  kill $daemon && rm -r $work     # when you have seen enough"
        daemon='' work=''
    else
        say
        say 'Type next:'
        say '  ./install.sh --try --keep   the same, and the daemon keeps running'
        say '  ./install.sh --user         install it for yourself; then: tetherd run'
        say '  rm -r .try                  when you have seen enough'
    fi
}

# --- user ------------------------------------------------------------------------------------------------------------

user_places() {
    share=${XDG_DATA_HOME:-$HOME/.local/share}
    data=$share/tether
    links=$HOME/.local/bin
    fish=${XDG_CONFIG_HOME:-$HOME/.config}/fish/completions
}

install_user() {
    user_places
    install_into "$data/$version"
    link "$data/$version/bin/tetherd" "$links/tetherd"
    link "$data/$version/bin/tetherctl" "$links/tetherctl"
    put "$here/completions/tetherctl.bash" "$share/bash-completion/completions/tetherctl"
    put "$here/completions/_tetherctl" "$share/zsh/site-functions/_tetherctl"
    put "$here/completions/tetherctl.fish" "$fish/tetherctl.fish"
    for page in "$here"/man/*.[18]; do
        put "$page" "$share/man/man${page##*.}/$(basename "$page")"
    done
    done_if_dry
    say "installed Tether $version in $data/$version, with links in $links"
    case :$PATH: in
        *":$links:"*) ;;
        *) say "put it on your path: export PATH=$links:\$PATH" ;;
    esac
    say 'Type next:'
    say '  tetherd run                 in one terminal'
    say '  tetherctl models push models/digits && tetherctl infer digits < models/digits/example.json'
}

uninstall_user() {
    user_places
    for name in tetherd tetherctl; do
        unlink_if_ours "$links/$name" "$data"
    done
    act rm -rf "$data"
    act rm -f "$share/bash-completion/completions/tetherctl" "$share/zsh/site-functions/_tetherctl" \
        "$fish/tetherctl.fish"
    for page in "$here"/man/*.[18]; do
        act rm -f "$share/man/man${page##*.}/$(basename "$page")"
    done
    if [ "$purge" = yes ]; then
        act rm -rf "${XDG_STATE_HOME:-$HOME/.local/state}/tether" "${XDG_CACHE_HOME:-$HOME/.cache}/tether" \
            "${XDG_CONFIG_HOME:-$HOME/.config}/tether"
    fi
    done_if_dry
    say 'removed what ./install.sh --user installed'
}

# --- system ----------------------------------------------------------------------------------------------------------

prefix=/opt/tether
unit=/etc/systemd/system/tetherd.service

need_root() {
    if [ "$(id -u)" != 0 ] && [ "$dry" = no ]; then
        fail '--system writes to /opt, /usr/local and /etc, which takes root' "sudo ./install.sh --system"
    fi
}

install_system() {
    need_root
    umask 022
    case $("$(find_python)" -c 'import sys; print(sys.base_prefix)') in
        /home/* | /root/*)
            fail "$(find_python) lives in a home directory, which the service cannot read" \
                'install Python for the whole system and put it first on the PATH'
            ;;
    esac
    install_into "$prefix/$version"
    link "$prefix/$version/bin/tetherd" /usr/local/bin/tetherd
    link "$prefix/$version/bin/tetherctl" /usr/local/bin/tetherctl
    put "$here/completions/tetherctl.bash" /usr/local/share/bash-completion/completions/tetherctl
    put "$here/completions/_tetherctl" /usr/local/share/zsh/site-functions/_tetherctl
    put "$here/completions/tetherctl.fish" /usr/local/share/fish/vendor_completions.d/tetherctl.fish
    for page in "$here"/man/*.[18]; do
        put "$page" "/usr/local/share/man/man${page##*.}/$(basename "$page")"
    done
    if ! id tether >/dev/null 2>&1; then
        act useradd --system --user-group --home-dir /var/lib/tether --no-create-home --shell /usr/sbin/nologin tether
    fi
    if [ ! -e /etc/tether/tetherd.toml ]; then
        act mkdir -p /etc/tether
        if [ "$dry" = yes ]; then
            say "+ tetherd config --default > /etc/tether/tetherd.toml"
        else
            "$prefix/$version/bin/tetherd" config --default >/etc/tether/tetherd.toml
            chmod 644 /etc/tether/tetherd.toml
        fi
    fi
    install_unit
    if [ "$enable" = yes ]; then
        act systemctl enable --now tetherd
    fi
    done_if_dry
    say "installed Tether $version in $prefix/$version; settings are in /etc/tether/tetherd.toml"
    say 'Type next:'
    [ "$enable" = yes ] || say '  systemctl enable --now tetherd'
    say '  sudo tetherctl status'
}

install_unit() {
    # The unit as it was written last is kept aside: one that differs from it was edited and is left alone.
    if [ -e "$unit" ] && ! cmp -s "$unit" "$prefix/tetherd.service" && ! cmp -s "$unit" "$here/systemd/tetherd.service"; then
        say "$unit was edited and stays as it is; the new one is $prefix/tetherd.service.new"
        put "$here/systemd/tetherd.service" "$prefix/tetherd.service.new"
        return
    fi
    put "$here/systemd/tetherd.service" "$unit"
    put "$here/systemd/tetherd.service" "$prefix/tetherd.service"
    if [ -d /run/systemd/system ]; then
        act systemctl daemon-reload
    fi
}

uninstall_system() {
    if [ -d /run/systemd/system ] && [ -e "$unit" ]; then
        act systemctl disable --now tetherd
    fi
    act rm -f "$unit"
    for name in tetherd tetherctl; do
        unlink_if_ours "/usr/local/bin/$name" "$prefix"
    done
    act rm -rf "$prefix"
    act rm -f /usr/local/share/bash-completion/completions/tetherctl /usr/local/share/zsh/site-functions/_tetherctl \
        /usr/local/share/fish/vendor_completions.d/tetherctl.fish
    for page in "$here"/man/*.[18]; do
        act rm -f "/usr/local/share/man/man${page##*.}/$(basename "$page")"
    done
    if [ "$purge" = yes ]; then
        act rm -rf /var/lib/tether /var/cache/tether /etc/tether
        if id tether >/dev/null 2>&1; then
            act userdel tether
        fi
    fi
    done_if_dry
    say 'removed what ./install.sh --system installed'
}

main() {
    mode='' dry=no keep=no enable=no purge=no
    for argument in "$@"; do
        case $argument in
            --try | --user | --system | --uninstall)
                [ -z "$mode" ] || fail "$mode and $argument do not go together" 'choose one'
                mode=$argument
                ;;
            --keep) keep=yes ;;
            --enable) enable=yes ;;
            --purge) purge=yes ;;
            --dry-run) dry=yes ;;
            --help | -h) usage && exit 0 ;;
            *) usage >&2 && exit 2 ;;
        esac
    done
    here=$(cd "$(dirname "$0")" && pwd)
    [ -f "$here/pyproject.toml" ] || fail "$here is not a clone of Tether" 'run install.sh from the folder it came in'
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/tetherd/__init__.py")
    case $mode in
        --try) try ;;
        --user) install_user ;;
        --system) install_system ;;
        --uninstall) if [ "$(id -u)" = 0 ] && [ -e "$prefix" ]; then uninstall_system; else uninstall_user; fi ;;
        *) usage >&2 && exit 2 ;;
    esac
}

main "$@"
