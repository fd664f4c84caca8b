"""The completion as a script for bash, zsh and fish. Each script reads the words from left to right, as the parser does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.completion import FILES, FOLDERS, INSTANCES, NOTHING, VERSIONS, Node

_TABLES = r"""_meshexp_value() { # PATH OPTION: sets kind; fails where the option takes no value
    case "$1 $2" in
@values@
        *) return 1 ;;
    esac
}
_meshexp_node() { # PATH: sets verbs, options, and the kind of its arguments
    case $1 in
@nodes@
    esac
}"""
"""Of bash and zsh."""

_BASH = r"""# bash completion for meshexp, made by `meshexp completion bash`
@tables@
_meshexp_folders() { # FOLDER WORD PATTERN
    local one
    [[ $2 == */* ]] && return
    while IFS= read -r one; do
        one=${one##*/}
        [[ $one == $3 && $one != *[!a-zA-Z0-9.+-]* ]] && COMPREPLY+=("$one")
    done < <(compgen -d -- "$1/$2" 2>/dev/null)
}
_meshexp_offer() { # KIND WORD
    case $1 in
        @nothing) ;;
        @files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
        @folders) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
        @instances) _meshexp_folders "${MESHEXP_CONFIG_DIR:-/etc/meshexp}/instances" "$2" '*' ;;
        @versions) _meshexp_folders "${MESHEXP_STATE_DIR:-/var/lib/meshexp}/proxy" "$2" '[0-9]*' ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2") ;;
    esac
}
_meshexp() {
    local path='' option='' kind='' verbs='' options='' i word cur=${COMP_WORDS[COMP_CWORD]} IFS=$' \t\n'
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == = ]] && continue # bash makes three words of --option=value
        if [[ -n $option ]]; then
            option=''
        elif [[ $word == -* ]]; then
            if _meshexp_value "$path" "$word"; then option=$word; fi
        else
            _meshexp_node "$path"
            if [[ " $verbs " == *" $word "* ]]; then path=${path:+$path }$word; fi
        fi
    done
    [[ $cur == = ]] && cur=''
    if [[ -n $option ]]; then
        _meshexp_value "$path" "$option"
        _meshexp_offer "$kind" "$cur"
        return
    fi
    _meshexp_node "$path"
    if [[ $cur == -* ]]; then
        _meshexp_offer "$options" "$cur"
    else
        _meshexp_offer "${verbs:-$kind}" "$cur"
    fi
}
complete -F _meshexp meshexp
"""

_ZSH = r"""#compdef meshexp
# zsh completion for meshexp, made by `meshexp completion zsh`
@tables@
_meshexp_names() { # of folders, without what no folder of ours is called
    found=(${found:#*[^a-zA-Z0-9.+-]*})
    compadd -a found
}
_meshexp_offer() { # KIND
    local -a found
    case $1 in
        @nothing) ;;
        @files) _files ;;
        @folders) _files -/ ;;
        @instances) found=(${MESHEXP_CONFIG_DIR:-/etc/meshexp}/instances/*(N/:t)); _meshexp_names ;;
        @versions) found=(${MESHEXP_STATE_DIR:-/var/lib/meshexp}/proxy/[0-9]*(N/:t)); _meshexp_names ;;
        *) found=(${=1}); compadd -a found ;;
    esac
}
_meshexp() {
    local at='' option='' kind='' word i
    local -a verbs options
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        if [[ -n $option ]]; then
            option=''
        elif [[ $word == --*=* ]]; then
            continue
        elif [[ $word == -* ]]; then
            if _meshexp_value "$at" "$word"; then option=$word; fi
        else
            _meshexp_node "$at"
            if [[ -n ${verbs[(r)${(b)word}:*]} ]]; then at=${at:+$at }$word; fi
        fi
    done
    if [[ -z $option && $PREFIX == --*=* ]]; then
        option=${PREFIX%%=*}
        compset -P 1 '*='
    fi
    if [[ -n $option ]]; then
        _meshexp_value "$at" "$option" && _meshexp_offer "$kind"
        return
    fi
    _meshexp_node "$at"
    if [[ $PREFIX == -* ]]; then
        _describe option options
    elif (( $#verbs )); then
        _describe verb verbs
    else
        _meshexp_offer "$kind"
    fi
}
if [[ $funcstack[1] == _meshexp ]]; then
    _meshexp "$@"
else
    compdef _meshexp meshexp
fi
"""

_FISH = r"""# fish completion for meshexp, made by `meshexp completion fish`
function __meshexp_takes_value
    switch "$argv"
@values@
            return 0
    end
    return 1
end
function __meshexp_is_verb
    switch "$argv"
@verbs@
            return 0
    end
    return 1
end
function __meshexp_at
    set -l path ''
    set -l value 0
    for word in (commandline -opc)[2..-1]
        if test $value = 1
            set value 0
        else if string match -q -- '--*=*' $word
            continue
        else if string match -q -- '-*' $word
            __meshexp_takes_value "$path $word"; and set value 1
        else if __meshexp_is_verb (string trim -- "$path $word")
            set path (string trim -- "$path $word")
        end
    end
    test "$path" = "$argv"
end
function __meshexp_instances
    set -q MESHEXP_CONFIG_DIR; and set -l base $MESHEXP_CONFIG_DIR; or set -l base /etc/meshexp
    for one in $base/instances/*/
        string replace -rf '.*/([a-zA-Z0-9.+-]+)/$' '$1' -- $one
    end
end
function __meshexp_versions
    set -q MESHEXP_STATE_DIR; and set -l base $MESHEXP_STATE_DIR; or set -l base /var/lib/meshexp
    for one in $base/proxy/*/
        string replace -rf '.*/([0-9][a-zA-Z0-9.+-]*)/$' '$1' -- $one
    end
end
complete -c meshexp -f
@completions@
"""
SHELLS = ("bash", "zsh", "fish")


def script(shell: str, nodes: tuple[Node, ...]) -> str:
    makers: dict[str, Callable[[tuple[Node, ...]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](nodes)


def _quoted(text: str) -> str:
    """For bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, **parts: Iterable[str]) -> str:
    for name, lines in parts.items():
        template = template.replace(f"@{name}@", "\n".join(lines))
    return template


def _values(nodes: tuple[Node, ...]) -> Iterable[str]:
    for node in nodes:
        for option in node.options:
            if option.takes is not None:
                patterns = " | ".join(_quoted(f"{node.path} {name}") for name in option.names)
                yield f"        {patterns}) kind={_quoted(option.takes)} ;;"


def _bash(nodes: tuple[Node, ...]) -> str:
    lines = []
    for node in nodes:
        verbs = " ".join(name for name, _ in node.verbs)
        options = " ".join(name for option in node.options for name in option.names)
        lines.append(f"        {_quoted(node.path)}) verbs='{verbs}' options='{options}' kind='{node.takes}' ;;")
    return _filled(_BASH, tables=[_TABLES], values=_values(nodes), nodes=lines)


def _zsh(nodes: tuple[Node, ...]) -> str:
    lines = []
    for node in nodes:
        verbs = " ".join(_quoted(f"{name}:{text}") for name, text in node.verbs)
        options = " ".join(_quoted(f"{name}:{option.text}") for option in node.options for name in option.names)
        lines.append(f"        {_quoted(node.path)}) verbs=({verbs}); options=({options}); kind='{node.takes}' ;;")
    return _filled(_ZSH, tables=[_TABLES], values=_values(nodes), nodes=lines)


_IN_FISH = {
    FILES: "-F",
    FOLDERS: "-a '(__fish_complete_directories)'",
    INSTANCES: "-a '(__meshexp_instances)'",
    VERSIONS: "-a '(__meshexp_versions)'",
    NOTHING: "",
}


def _fish(nodes: tuple[Node, ...]) -> str:
    options = [(node.path, option) for node in nodes for option in node.options]
    values = " ".join(_in_fish(f"{path} {name}") for path, option in options if option.takes is not None for name in option.names)
    verbs = " ".join(_in_fish(node.path) for node in nodes if node.path)
    return _filled(_FISH, values=[f"        case {values}"], verbs=[f"        case {verbs}"], completions=_completions(nodes))


def _completions(nodes: tuple[Node, ...]) -> Iterable[str]:
    for node in nodes:
        at = f"complete -c meshexp -n {_in_fish(f'__meshexp_at {node.path}'.rstrip())}"
        for name, text in node.verbs:
            yield f"{at} -a {name} -d {_in_fish(text)}"
        if not node.verbs and node.takes != NOTHING:
            yield f"{at} {_offered(node.takes)}"
        for option in node.options:
            flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            yield f"{at} {flags}{_value(option.takes)} -d {_in_fish(option.text)}"


def _offered(kind: str) -> str:
    """The flags of `complete` that offer what is of this kind, or each of these words."""
    return _IN_FISH[kind] if kind in _IN_FISH else f"-a {_in_fish(kind)}"


def _value(kind: str | None) -> str:
    """The same for the value of an option; -r: it takes one, -x: and no file is offered for it."""
    if kind is None:
        return ""
    return f" {'-r' if kind == FILES else '-x'} {_offered(kind)}".rstrip()


def _in_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
