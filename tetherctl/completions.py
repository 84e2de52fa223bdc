"""Completion scripts: commands and options are written into them, only model names are asked for while typing."""

from collections.abc import Callable, Iterable
from typing import Final

from tetherctl.reference import Flag, Spec, global_flags, specs
from tetherctl.registry import COMMANDS, GROUPS
from tetherctl.topics import topics

HEAD: Final = "made by `tetherctl completion`; do not edit"
FILES: Final = ("PATH", "FILE", "[FILE|-]", "DIR")


def _top() -> list[tuple[str, str]]:
    words = {path.split()[0]: entry.summary for path, entry in COMMANDS.items()}
    return list((words | GROUPS).items())


def _verbs(group: str) -> list[tuple[str, str]]:
    return [(path.split()[1], entry.summary) for path, entry in COMMANDS.items() if path.startswith(f"{group} ")]


def _argument(spec: Spec) -> tuple[str, list[str]]:
    """Return how a command's argument is completed: ``model``, ``file``, or ``word`` and the words."""
    metavar = spec.arguments[0][0] if spec.arguments else ""
    if "MODEL" in metavar:
        return "model", []
    if metavar in FILES:
        return "file", []
    fixed = {"SHELL": ["bash", "zsh", "fish"], "[COMMAND|TOPIC]": [*topics(), *(word for word, _ in _top())]}
    return "word", fixed.get(metavar, [])


def _all_flags() -> list[Flag]:
    return [*global_flags(), *(flag for spec in specs() for flag in spec.flags)]


def _valued() -> list[str]:
    """Return every spelling of an option that takes a value."""
    return list(dict.fromkeys(name for flag in _all_flags() if flag.metavar for name in flag.names))


def _choices() -> list[Flag]:
    return [flag for flag in global_flags() if flag.values]


def _file_flags() -> list[str]:
    return list(dict.fromkeys(name for flag in _all_flags() if flag.metavar in FILES for name in flag.names))


def _names(flags: Iterable[Flag]) -> list[str]:
    return [name for flag in flags for name in flag.names]


BASH: Final = """\
# bash completion for tetherctl; @head@

_tetherctl_words() {
    local IFS=$' \\t\\n'
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}")
}

_tetherctl_models() {
    _tetherctl_words "$("${COMP_WORDS[0]}" __complete models "${COMP_WORDS[COMP_CWORD]}" 2>/dev/null)"
}

_tetherctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} path="" word words="" i skip=""
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $skip ]]; then
            skip=""
            continue
        fi
        case $word in
        @valued@) skip=1 ;;
        -*) ;;
        *)
            case $path in
            "") path=$word ;;
            @groups@) path="$path $word" ;;
            esac
            ;;
        esac
    done
    case $prev in
@lists@
        @files@) compopt -o default; return ;;
    esac
    [[ $skip ]] && return
    if [[ $cur == -* ]]; then
        case $path in
@flags@
        esac
        _tetherctl_words "$words @options@"
        return
    fi
    case $path in
@cases@
    esac
    _tetherctl_words "$words"
}

complete -F _tetherctl tetherctl
"""


def bash() -> str:
    """Return the script for bash."""
    words = [*(word for word, _ in _top())]
    cases = [f'        "") words="{" ".join(words)}" ;;']
    cases += [f'        {group}) words="{" ".join(verb for verb, _ in _verbs(group))}" ;;' for group in GROUPS]
    flags = []
    for spec in specs():
        kind, fixed = _argument(spec)
        action = {"model": "_tetherctl_models; return", "file": "compopt -o default; return"}.get(kind)
        listed = 'words="' + " ".join(fixed) + '"'
        cases.append(f'        "{spec.path}") {action or listed} ;;')
        flags.append(f'            "{spec.path}") words="{" ".join(_names(spec.flags))}" ;;')
    lists = [
        f'        {"|".join(flag.names)}) _tetherctl_words "{" ".join(flag.values)}"; return ;;' for flag in _choices()
    ]
    return _fill(BASH, cases=cases, flags=flags, lists=lists, options=" ".join(_names(global_flags())))


def _fill(
    template: str,
    *,
    lists: list[str],
    cases: Iterable[str] = (),
    flags: Iterable[str] = (),
    options: str = "",
    between: str = "|",
) -> str:
    """Return a template with what this command line has in place of the marks."""
    parts = {"head": HEAD, "lists": "\n".join(lists), "cases": "\n".join(cases), "flags": "\n".join(flags)}
    parts |= {"options": options, "groups": between.join(GROUPS)}
    parts |= {"valued": between.join(_valued()), "files": between.join(_file_flags())}
    for mark, text in parts.items():
        template = template.replace(f"@{mark}@", text)
    return template


def _described(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join("'" + f"{word}:{text}".replace("'", "'\\''") + "'" for word, text in pairs)


def _flag_pairs(flags: Iterable[Flag]) -> list[tuple[str, str]]:
    return [(name, flag.help) for flag in flags for name in flag.names]


ZSH: Final = """\
#compdef tetherctl
# zsh completion for tetherctl; @head@

_tetherctl() {
    local cur=$words[CURRENT] prev=$words[CURRENT-1] cmd= word skip=
    local -i i
    local -a pairs
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        if [[ -n $skip ]]; then
            skip=
            continue
        fi
        case $word in
        @valued@) skip=1 ;;
        -*) ;;
        *)
            case $cmd in
            '') cmd=$word ;;
            @groups@) cmd="$cmd $word" ;;
            esac
            ;;
        esac
    done
    case $prev in
@lists@
        @files@) _files; return ;;
    esac
    [[ -n $skip ]] && return
    if [[ $cur == -* ]]; then
        case $cmd in
@flags@
        esac
        pairs+=(@options@)
        _describe option pairs
        return
    fi
    case $cmd in
@cases@
    esac
    (( $#pairs )) && _describe command pairs
}

if [[ $funcstack[1] == _tetherctl ]]; then
    _tetherctl "$@"
else
    compdef _tetherctl tetherctl
fi
"""


def zsh() -> str:
    """Return the script for zsh; the first TAB works, autoloaded or sourced."""
    cases = [f"        '') pairs=({_described(_top())}) ;;"]
    cases += [f"        {group}) pairs=({_described(_verbs(group))}) ;;" for group in GROUPS]
    flags = []
    for spec in specs():
        kind, fixed = _argument(spec)
        models = 'compadd -- ${(f)"$($words[1] __complete models "$cur" 2>/dev/null)"}; return'
        action = {"model": models, "file": "_files; return"}.get(kind) or f"pairs=({' '.join(fixed)})"
        cases.append(f"        '{spec.path}') {action} ;;")
        flags.append(f"            '{spec.path}') pairs=({_described(_flag_pairs(spec.flags))}) ;;")
    lists = [f"        {'|'.join(flag.names)}) compadd -- {' '.join(flag.values)}; return ;;" for flag in _choices()]
    return _fill(ZSH, cases=cases, flags=flags, lists=lists, options=_described(_flag_pairs(global_flags())))


FISH: Final = """\
# fish completion for tetherctl; @head@

function __tetherctl_path
    set -l path
    set -l skip
    for word in (commandline -opc)[2..-1]
        if set -q skip[1]
            set -e skip
            set -l skip
            continue
        end
        switch $word
            case @valued@
                set skip 1
            case '-*'
            case '*'
                if test (count $path) -eq 0; or contains -- "$path" @groups@
                    set -a path $word
                end
        end
    end
    string join ' ' -- $path
end

function __tetherctl_at
    test (__tetherctl_path | string collect; or echo) = "$argv"
end

complete -c tetherctl -f
@lists@
"""


def fish() -> str:
    """Return the script for fish."""
    lines = []
    lines += [_fish("", f"-a {word} -d {_quoted(text)}") for word, text in _top()]
    for group in GROUPS:
        lines += [_fish(group, f"-a {verb} -d {_quoted(text)}") for verb, text in _verbs(group)]
    for spec in specs():
        kind, fixed = _argument(spec)
        asked = "-a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'"
        wanted = {"model": asked, "file": "-F"}.get(kind) or (f"-a '{' '.join(fixed)}'" if fixed else "")
        lines += [_fish(spec.path, wanted)] if wanted else []
        lines += [_fish(spec.path, _fish_flag(flag)) for flag in spec.flags]
    lines += [f"complete -c tetherctl {_fish_flag(flag)}" for flag in global_flags()]
    return _fill(FISH, lists=lines, between=" ")


def _fish(path: str, rest: str) -> str:
    return f"complete -c tetherctl -n {_quoted(f'__tetherctl_at {path}'.strip())} {rest}"


def _fish_flag(flag: Flag) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
    value = "" if not flag.metavar else " -r -F" if flag.metavar in FILES else " -x"
    values = f" -a '{' '.join(flag.values)}'" if flag.values else ""
    return f"{names}{value}{values} -d {_quoted(flag.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Final[dict[str, Callable[[], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""The generator of each shell's script."""
