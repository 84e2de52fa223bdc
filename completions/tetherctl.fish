# fish completion for tetherctl; made by `tetherctl completion`; do not edit

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
            case --endpoint -o --output --color --timeout --progress -i --input --concurrency --deadline --name --alias -d --directory --to --role --ttl --token-file --only --count --for
                set skip 1
            case '-*'
            case '*'
                if test (count $path) -eq 0; or contains -- "$path" models cluster nodes config
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
complete -c tetherctl -n '__tetherctl_at' -a infer -d 'Run a model on JSON from stdin or a file.'
complete -c tetherctl -n '__tetherctl_at' -a models -d 'Push, list and steer models.'
complete -c tetherctl -n '__tetherctl_at' -a cluster -d 'Found a network of hosts, let hosts in, join one.'
complete -c tetherctl -n '__tetherctl_at' -a nodes -d 'Look at the nodes of the network and send them away.'
complete -c tetherctl -n '__tetherctl_at' -a status -d 'Show whether inference can be served, and by whom.'
complete -c tetherctl -n '__tetherctl_at' -a doctor -d 'Say why another node cannot be reached at an address.'
complete -c tetherctl -n '__tetherctl_at' -a netcheck -d 'Show how this host finds others, and what was dropped.'
complete -c tetherctl -n '__tetherctl_at' -a ping -d 'Ask a node for a sign of life, and show the path to it.'
complete -c tetherctl -n '__tetherctl_at' -a config -d 'Look at the configuration in effect.'
complete -c tetherctl -n '__tetherctl_at' -a version -d 'Print the versions of this tool and of the daemon.'
complete -c tetherctl -n '__tetherctl_at' -a completion -d 'Print a completion script for bash, zsh or fish.'
complete -c tetherctl -n '__tetherctl_at' -a help -d 'Explain a command or a topic.'
complete -c tetherctl -n '__tetherctl_at models' -a ls -d 'List models.'
complete -c tetherctl -n '__tetherctl_at models' -a show -d 'Show one model: versions, aliases, signature, runners.'
complete -c tetherctl -n '__tetherctl_at models' -a push -d 'Upload a model and make it a new version.'
complete -c tetherctl -n '__tetherctl_at models' -a pull -d 'Download a version\'s files.'
complete -c tetherctl -n '__tetherctl_at models' -a versions -d 'List the versions of a model.'
complete -c tetherctl -n '__tetherctl_at models' -a promote -d 'Point an alias at a version.'
complete -c tetherctl -n '__tetherctl_at models' -a rollback -d 'Point an alias back at where it was before.'
complete -c tetherctl -n '__tetherctl_at models' -a load -d 'Load a version now and keep it loaded.'
complete -c tetherctl -n '__tetherctl_at models' -a unload -d 'Stop a model with all its versions and refuse work for it.'
complete -c tetherctl -n '__tetherctl_at models' -a rm -d 'Remove a model or one version of it.'
complete -c tetherctl -n '__tetherctl_at cluster' -a init -d 'Found a network with this host as its first node.'
complete -c tetherctl -n '__tetherctl_at cluster' -a token -d 'Make a token with which one host can join.'
complete -c tetherctl -n '__tetherctl_at cluster' -a join -d 'Join a network with a token.'
complete -c tetherctl -n '__tetherctl_at cluster' -a members -d 'List the members of the network.'
complete -c tetherctl -n '__tetherctl_at cluster' -a leave -d 'Leave the network.'
complete -c tetherctl -n '__tetherctl_at cluster' -a ca -d 'Show the keys that the network trusts.'
complete -c tetherctl -n '__tetherctl_at nodes' -a ls -d 'List the nodes of the network.'
complete -c tetherctl -n '__tetherctl_at nodes' -a show -d 'Show one node.'
complete -c tetherctl -n '__tetherctl_at nodes' -a label -d 'Set labels of a node, or remove them.'
complete -c tetherctl -n '__tetherctl_at nodes' -a revoke -d 'Send a node away.'
complete -c tetherctl -n '__tetherctl_at nodes' -a forget -d 'Strike a node off the list.'
complete -c tetherctl -n '__tetherctl_at config' -a show -d 'Print effective settings and where each comes from.'
complete -c tetherctl -n '__tetherctl_at config' -a path -d 'Print every file and directory in use.'
complete -c tetherctl -n '__tetherctl_at config' -a validate -d 'Check configuration files without using them.'
complete -c tetherctl -n '__tetherctl_at infer' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at infer' -s i -l input -r -F -d 'Read FILE instead of stdin.'
complete -c tetherctl -n '__tetherctl_at infer' -l batch -d 'One JSON request a line in, one answer a line out, in order.'
complete -c tetherctl -n '__tetherctl_at infer' -l concurrency -x -d 'With --batch: at once. Default: 8.'
complete -c tetherctl -n '__tetherctl_at infer' -l keep-going -d 'With --batch: go on after a failed line.'
complete -c tetherctl -n '__tetherctl_at infer' -l deadline -x -d 'Give up after: 500ms, 2s, 1m.'
complete -c tetherctl -n '__tetherctl_at infer' -l raw -d 'Print the answer\'s bytes as they came.'
complete -c tetherctl -n '__tetherctl_at infer' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models ls' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models show' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models show' -l where -d 'Say which managers hold each version.'
complete -c tetherctl -n '__tetherctl_at models show' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models push' -F
complete -c tetherctl -n '__tetherctl_at models push' -l name -x -d 'Name of the model; default: the folder\'s.'
complete -c tetherctl -n '__tetherctl_at models push' -l alias -x -d 'Alias that is to mean the new version. Default: latest.'
complete -c tetherctl -n '__tetherctl_at models push' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models pull' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models pull' -s d -l directory -r -F -d 'Where to put the files; default: ./MODEL.'
complete -c tetherctl -n '__tetherctl_at models pull' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models versions' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models versions' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models promote' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models promote' -l alias -l to -x -d 'Alias to move. Default: latest.'
complete -c tetherctl -n '__tetherctl_at models promote' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models rollback' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models rollback' -l alias -x -d 'Alias to move. Default: latest.'
complete -c tetherctl -n '__tetherctl_at models rollback' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models load' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models load' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models unload' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models unload' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at models rm' -a '(tetherctl __complete models (commandline -ct) 2>/dev/null)'
complete -c tetherctl -n '__tetherctl_at models rm' -s y -l yes -d 'Do not ask.'
complete -c tetherctl -n '__tetherctl_at models rm' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster init' -l name -x -d 'What the network is called. Default: home.'
complete -c tetherctl -n '__tetherctl_at cluster init' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster token' -l role -x -d 'What the host will do; repeat it.'
complete -c tetherctl -n '__tetherctl_at cluster token' -l ttl -x -d 'How long the token is good, at most 24h. Default: 10m.'
complete -c tetherctl -n '__tetherctl_at cluster token' -l name -x -d 'What the host will be called.'
complete -c tetherctl -n '__tetherctl_at cluster token' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster join' -l token-file -r -F -d 'Where the token is; - is standard input.'
complete -c tetherctl -n '__tetherctl_at cluster join' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster members' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster leave' -l force -d 'Also when the network cannot be told, or ends with it.'
complete -c tetherctl -n '__tetherctl_at cluster leave' -s y -l yes -d 'Do not ask.'
complete -c tetherctl -n '__tetherctl_at cluster leave' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at cluster ca' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at nodes ls' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at nodes show' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at nodes label' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at nodes revoke' -s y -l yes -d 'Do not ask.'
complete -c tetherctl -n '__tetherctl_at nodes revoke' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at nodes forget' -s y -l yes -d 'Do not ask.'
complete -c tetherctl -n '__tetherctl_at nodes forget' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at status' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at doctor' -l only -x -d 'Only these checks: config, socket, seeds, multicast, udp, tcp, tls, clock, disk, files.'
complete -c tetherctl -n '__tetherctl_at doctor' -l strict -d 'Fail on warnings too.'
complete -c tetherctl -n '__tetherctl_at doctor' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at doctor peer' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at netcheck' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at ping' -l count -x -d 'How often, once a second. Default: 1.'
complete -c tetherctl -n '__tetherctl_at ping' -l until-direct -d 'Go on until a path is not relayed.'
complete -c tetherctl -n '__tetherctl_at ping' -l for -x -d 'How long to go on for a direct path. Default: 60s.'
complete -c tetherctl -n '__tetherctl_at ping' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at config show' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at config path' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at config validate' -F
complete -c tetherctl -n '__tetherctl_at config validate' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at version' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at completion' -a 'bash zsh fish'
complete -c tetherctl -n '__tetherctl_at completion' -s h -l help -d 'Explain the command.'
complete -c tetherctl -n '__tetherctl_at help' -a 'environment exit-codes output errors globals quickstart infer models cluster nodes status doctor netcheck ping config version completion help'
complete -c tetherctl -n '__tetherctl_at help' -s h -l help -d 'Explain the command.'
complete -c tetherctl -l endpoint -x -d 'Where tetherd answers: unix:///path or http://host:port.'
complete -c tetherctl -s o -l output -x -a 'table json ndjson name' -d 'Form of the output; --json is -o json.'
complete -c tetherctl -s q -l quiet -d 'Print data and errors only.'
complete -c tetherctl -s v -l verbose -d 'Say more on stderr.'
complete -c tetherctl -l color -x -a 'auto always never' -d 'Colour: NO_COLOR, FORCE_COLOR and TERM=dumb are honoured too.'
complete -c tetherctl -l timeout -x -d 'How long to wait for the daemon: 500ms, 10s, 2m.'
complete -c tetherctl -l no-input -d 'Never ask; fail and name the flag to pass instead.'
complete -c tetherctl -l progress -x -a 'auto bar plain json none' -d 'Form of progress on stderr.'
complete -c tetherctl -l json -d 'The same as -o json.'
complete -c tetherctl -s V -l version -d 'Print the version.'
