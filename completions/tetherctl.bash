# bash completion for tetherctl; made by `tetherctl completion`; do not edit

_tetherctl_words() {
    local IFS=$' \t\n'
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
        --endpoint|-o|--output|--color|--timeout|--progress|-i|--input|--concurrency|--deadline|--name|--alias|-d|--directory|--to|--role|--ttl|--token-file|--only|--count|--for) skip=1 ;;
        -*) ;;
        *)
            case $path in
            "") path=$word ;;
            models|cluster|nodes|config) path="$path $word" ;;
            esac
            ;;
        esac
    done
    case $prev in
        -o|--output) _tetherctl_words "table json ndjson name"; return ;;
        --color) _tetherctl_words "auto always never"; return ;;
        --progress) _tetherctl_words "auto bar plain json none"; return ;;
        -i|--input|-d|--directory|--token-file) compopt -o default; return ;;
    esac
    [[ $skip ]] && return
    if [[ $cur == -* ]]; then
        case $path in
            "infer") words="-i --input --batch --concurrency --keep-going --deadline --raw -h --help" ;;
            "models ls") words="-h --help" ;;
            "models show") words="--where -h --help" ;;
            "models push") words="--name --alias -h --help" ;;
            "models pull") words="-d --directory -h --help" ;;
            "models versions") words="-h --help" ;;
            "models promote") words="--alias --to -h --help" ;;
            "models rollback") words="--alias -h --help" ;;
            "models load") words="-h --help" ;;
            "models unload") words="-h --help" ;;
            "models rm") words="-y --yes -h --help" ;;
            "cluster init") words="--name -h --help" ;;
            "cluster token") words="--role --ttl --name -h --help" ;;
            "cluster join") words="--token-file -h --help" ;;
            "cluster members") words="-h --help" ;;
            "cluster leave") words="--force -y --yes -h --help" ;;
            "cluster keys") words="--force -y --yes -h --help" ;;
            "cluster ca") words="--force -y --yes -h --help" ;;
            "nodes ls") words="-h --help" ;;
            "nodes show") words="-h --help" ;;
            "nodes label") words="-h --help" ;;
            "nodes revoke") words="-y --yes -h --help" ;;
            "nodes forget") words="-y --yes -h --help" ;;
            "status") words="-h --help" ;;
            "doctor") words="--only --strict -h --help" ;;
            "doctor peer") words="-h --help" ;;
            "netcheck") words="-h --help" ;;
            "ping") words="--count --until-direct --for -h --help" ;;
            "config show") words="-h --help" ;;
            "config path") words="-h --help" ;;
            "config validate") words="-h --help" ;;
            "version") words="-h --help" ;;
            "completion") words="-h --help" ;;
            "help") words="-h --help" ;;
        esac
        _tetherctl_words "$words --endpoint -o --output -q --quiet -v --verbose --color --timeout --no-input --progress --json -V --version"
        return
    fi
    case $path in
        "") words="infer models cluster nodes status doctor netcheck ping config version completion help" ;;
        models) words="ls show push pull versions promote rollback load unload rm" ;;
        cluster) words="init token join members leave keys ca" ;;
        nodes) words="ls show label revoke forget" ;;
        config) words="show path validate" ;;
        "infer") _tetherctl_models; return ;;
        "models ls") words="" ;;
        "models show") _tetherctl_models; return ;;
        "models push") compopt -o default; return ;;
        "models pull") _tetherctl_models; return ;;
        "models versions") _tetherctl_models; return ;;
        "models promote") _tetherctl_models; return ;;
        "models rollback") _tetherctl_models; return ;;
        "models load") _tetherctl_models; return ;;
        "models unload") _tetherctl_models; return ;;
        "models rm") _tetherctl_models; return ;;
        "cluster init") words="" ;;
        "cluster token") words="" ;;
        "cluster join") words="" ;;
        "cluster members") words="" ;;
        "cluster leave") words="" ;;
        "cluster keys") words="" ;;
        "cluster ca") words="" ;;
        "nodes ls") words="" ;;
        "nodes show") words="" ;;
        "nodes label") words="" ;;
        "nodes revoke") words="" ;;
        "nodes forget") words="" ;;
        "status") words="" ;;
        "doctor") words="" ;;
        "doctor peer") words="" ;;
        "netcheck") words="" ;;
        "ping") words="" ;;
        "config show") words="" ;;
        "config path") words="" ;;
        "config validate") compopt -o default; return ;;
        "version") words="" ;;
        "completion") words="bash zsh fish" ;;
        "help") words="environment exit-codes output errors globals quickstart infer models cluster nodes status doctor netcheck ping config version completion help" ;;
    esac
    _tetherctl_words "$words"
}

complete -F _tetherctl tetherctl
