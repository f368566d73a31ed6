# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_rgun_global_optspecs
    string join \n c/config= chdir= python= interface= k/worker-class= lifespan= loop= e/env= pythonpath= root-path= b/bind= forwarded-allow-ips= proxy-protocol= proxy-allow-from= certfile= keyfile= ca-certs= cert-reqs= w/workers= threads= preload max-requests= max-requests-jitter= u/user= g/group= t/timeout= graceful-timeout= keep-alive= limit-request-line= limit-request-fields= limit-request-field_size= ws-max-size= ws-ping-interval= ws-ping-timeout= ws-per-message-deflate= log-level= log-format= log-config= access-logfile= access-logformat= reload reload-dir= reload-include= reload-exclude= reload-delay= reload-extra-file= reload-engine= header-map= http-protocols= http2 http2-max-concurrent-streams= check-config host= port= uds= factory app-dir= proxy-headers no-proxy-headers access-log no-access-log limit-max-requests= limit-max-requests-jitter= limit-concurrency= timeout-keep-alive= timeout-graceful-shutdown= v/version h/help
end

function __fish_rgun_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_rgun_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_rgun_using_subcommand
    set -l cmd (__fish_rgun_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c rgun -n "__fish_rgun_needs_command" -s c -l config -d 'The file to read: TOML, or gunicorn\'s gunicorn.conf.py, file:PATH or python:MODULE [env: RGUN_CONFIG] [default: /etc/rgun/rgun.toml without APP; ./gunicorn.conf.py, if it exists, with APP or if there is no /etc/rgun/rgun.toml]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l chdir -d 'The directory that contains the application\'s module, and the workers\' working directory [default: the current directory]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l python -d 'The interpreter [default: that of rgun\'s own virtual environment, $VIRTUAL_ENV, .venv or venv in the directory, …, python3 on PATH]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l interface -d 'auto, wsgi or asgi [default: auto]' -r
complete -c rgun -n "__fish_rgun_needs_command" -s k -l worker-class -d 'Gunicorn\'s name for --interface: sync and gthread are wsgi; asgi and uvicorn\'s worker are asgi' -r
complete -c rgun -n "__fish_rgun_needs_command" -l lifespan -d 'Whether an ASGI application\'s lifespan is run: auto, on or off [default: auto]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l loop -d 'The event loop of an ASGI application: auto, asyncio or uvloop [default: auto]' -r
complete -c rgun -n "__fish_rgun_needs_command" -s e -l env -d 'Set an environment variable for the application; may be repeated' -r
complete -c rgun -n "__fish_rgun_needs_command" -l pythonpath -d 'Directories to search for modules before all others, separated by commas' -r
complete -c rgun -n "__fish_rgun_needs_command" -l root-path -d 'The URL path under which a proxy publishes the application, e.g. /shop' -r
complete -c rgun -n "__fish_rgun_needs_command" -s b -l bind -d 'HOST:PORT, HOST (port 8000), :PORT (all IPv4 addresses) or unix:PATH; may be repeated; several addresses are separated by commas [default: 127.0.0.1:8000; with PORT in the environment 0.0.0.0:$PORT]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l forwarded-allow-ips -d 'Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses and networks separated by commas, * for all, "" for none [env: FORWARDED_ALLOW_IPS] [default: those on this machine]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l proxy-protocol -d 'Each connection begins with a PROXY header; v1, v2 and auto (also without a value) accept both versions [default: off]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l proxy-allow-from -d 'Proxies that may send a PROXY header, written as in --forwarded-allow-ips [default: the proxies listed there]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l certfile -d 'PEM file with the certificate and its intermediate ones: clients speak TLS' -r
complete -c rgun -n "__fish_rgun_needs_command" -l keyfile -d 'PEM file with the certificate\'s private key [default: the file of --certfile]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l ca-certs -d 'PEM file with the authorities whose client certificates are valid' -r
complete -c rgun -n "__fish_rgun_needs_command" -l cert-reqs -d 'Client certificates: 0 or off, 1 or optional, 2 or required [default: 0]' -r
complete -c rgun -n "__fish_rgun_needs_command" -s w -l workers -d 'Worker processes: a number, a range such as 1-9 to scale with the load, or auto for two per core plus one [default: 1 with APP, else auto]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l threads -d 'WSGI: requests one worker runs at a time [default: 1]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l max-requests -d 'Replace a worker after this many requests; 0 for never [default: 0]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l max-requests-jitter -d 'Raise each worker\'s --max-requests by a random number from 0 to N, so that they are not all replaced at once [default: 0]' -r
complete -c rgun -n "__fish_rgun_needs_command" -s u -l user -d 'Run the workers as this user; rgun itself keeps its own user, usually root' -r
complete -c rgun -n "__fish_rgun_needs_command" -s g -l group -d 'Run the workers with this group [default: that of --user]' -r
complete -c rgun -n "__fish_rgun_needs_command" -s t -l timeout -d 'Maximum time the application may take for a request: 120 (seconds), 500ms, 2m; 0 for no limit [default: 30; none for ASGI with APP]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l graceful-timeout -d 'Maximum time running requests have to finish when rgun stops or reloads [default: 30]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l keep-alive -d 'Time until an idle connection is closed; 0 closes it after each response [default: 75]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-request-line -d 'Maximum length of the request line in bytes [default: 8KiB]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-request-fields -d 'Maximum number of header fields [default: 100]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-request-field_size -d 'Maximum size of all header fields together, in bytes [default: 16KiB]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l ws-max-size -d 'Maximum size of a message from a client [default: 16MiB]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l ws-ping-interval -d 'Ping a client that has sent nothing for this long; 0 for never [default: 20]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l ws-ping-timeout -d 'Close the connection if a ping is not answered within this time; 0 for never [default: 20]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l ws-per-message-deflate -d 'true or false: compress messages if the client supports it [default: true]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l log-level -d 'The least severe level that is logged: error, warning, info, debug or trace [default: info]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l log-format -d 'The format of the log: auto, text or json [default: auto, which is readable on a terminal and has all fields elsewhere]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l log-config -d 'Configure Python\'s logging in the workers from this file: JSON, YAML or TOML if it has such an extension, else ini' -r
complete -c rgun -n "__fish_rgun_needs_command" -l access-logfile -d '"-" logs each request: to the journal under systemd, elsewhere to stdout' -r
complete -c rgun -n "__fish_rgun_needs_command" -l access-logformat -d 'The line of a request in the access log, in gunicorn\'s notation: \'%(h)s "%(r)s" %(s)s\'' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-dir -d 'A directory in which every Python file is watched, not only imported ones; may be repeated' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-include -d 'Further files to watch: a pattern of names or paths, such as *.css or conf/site.yaml; may be repeated' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-exclude -d 'Files and directories not to watch; may be repeated' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-delay -d 'Time without a change after which the reload starts [default: 50ms]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-extra-file -d 'Gunicorn\'s name for --reload-include' -r
complete -c rgun -n "__fish_rgun_needs_command" -l reload-engine -d 'auto, inotify or poll, which file systems without inotify need [default: auto]' -r
complete -c rgun -n "__fish_rgun_needs_command" -l header-map -d 'Gunicorn\'s name for `http.underscores`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l http-protocols -d 'Gunicorn\'s name for `http.http2`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l http2-max-concurrent-streams -d 'Gunicorn\'s name for `limits.streams`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l host -d '`--host HOST --port PORT` is `--bind HOST:PORT`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l port -d 'See `host`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l uds -d '`--uds PATH` is `--bind unix:PATH`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l app-dir -d 'The first directory of `--pythonpath`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-max-requests -d '`--max-requests`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-max-requests-jitter -d '`--max-requests-jitter`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l limit-concurrency -d '`limits.queue`: further requests are answered 503, as in uvicorn' -r
complete -c rgun -n "__fish_rgun_needs_command" -l timeout-keep-alive -d '`--keep-alive`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l timeout-graceful-shutdown -d '`--graceful-timeout`' -r
complete -c rgun -n "__fish_rgun_needs_command" -l preload -d 'Import the application once and fork the workers, which share that memory'
complete -c rgun -n "__fish_rgun_needs_command" -l reload -d 'Load new code when a file that the application uses changes; the old code serves until the new one can'
complete -c rgun -n "__fish_rgun_needs_command" -l http2 -d 'Uvicorn\'s name for `http.http2 = true`'
complete -c rgun -n "__fish_rgun_needs_command" -l check-config -d 'Gunicorn\'s name for `rgun check`'
complete -c rgun -n "__fish_rgun_needs_command" -l factory -d 'Calls APP to make the application, as "()" at the end of APP does'
complete -c rgun -n "__fish_rgun_needs_command" -l proxy-headers -d 'The default: trusts the proxies of `proxy.trusted`'
complete -c rgun -n "__fish_rgun_needs_command" -l no-proxy-headers -d 'Trusts no proxy'
complete -c rgun -n "__fish_rgun_needs_command" -l access-log -d '`--access-logfile -`'
complete -c rgun -n "__fish_rgun_needs_command" -l no-access-log -d 'No `--access-logfile`'
complete -c rgun -n "__fish_rgun_needs_command" -s v -l version -d 'Print the version and exit'
complete -c rgun -n "__fish_rgun_needs_command" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_needs_command" -a "check" -d 'Check the configuration and the application, and report all errors; serve nothing'
complete -c rgun -n "__fish_rgun_needs_command" -a "reload" -d 'Make the running daemon load new code and configuration, and report the result'
complete -c rgun -n "__fish_rgun_needs_command" -a "status" -d 'Print the state of the running daemon'
complete -c rgun -n "__fish_rgun_needs_command" -a "workers" -d 'Print the workers of the running daemon'
complete -c rgun -n "__fish_rgun_needs_command" -a "requests" -d 'Print the requests that are queued or running, the longest first'
complete -c rgun -n "__fish_rgun_needs_command" -a "top" -d 'Show the state, the workers and the requests, every second, until q is pressed'
complete -c rgun -n "__fish_rgun_needs_command" -a "stacks" -d 'Print the Python stacks of the workers'
complete -c rgun -n "__fish_rgun_needs_command" -a "scale" -d 'Set the number of workers until the next reload'
complete -c rgun -n "__fish_rgun_needs_command" -a "drain" -d 'Answer health checks 503, so that load balancers send no more requests; serve all others'
complete -c rgun -n "__fish_rgun_needs_command" -a "doctor" -d 'Look at a running or failed service, and say what is wrong and what to do'
complete -c rgun -n "__fish_rgun_needs_command" -a "init" -d 'Look at a project, and write the configuration, the user and the drop-ins of its service; show the difference and ask first'
complete -c rgun -n "__fish_rgun_needs_command" -a "migrate" -d 'Print the configuration and drop-ins that replace a deployment of gunicorn, uvicorn, fastapi, granian, hypercorn, daphne, uWSGI or NGINX Unit'
complete -c rgun -n "__fish_rgun_using_subcommand check" -s c -l config -d 'The file to read: TOML, or gunicorn\'s gunicorn.conf.py, file:PATH or python:MODULE [env: RGUN_CONFIG] [default: /etc/rgun/rgun.toml without APP; ./gunicorn.conf.py, if it exists, with APP or if there is no /etc/rgun/rgun.toml]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l chdir -d 'The directory that contains the application\'s module, and the workers\' working directory [default: the current directory]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l python -d 'The interpreter [default: that of rgun\'s own virtual environment, $VIRTUAL_ENV, .venv or venv in the directory, …, python3 on PATH]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l interface -d 'auto, wsgi or asgi [default: auto]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s k -l worker-class -d 'Gunicorn\'s name for --interface: sync and gthread are wsgi; asgi and uvicorn\'s worker are asgi' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l lifespan -d 'Whether an ASGI application\'s lifespan is run: auto, on or off [default: auto]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l loop -d 'The event loop of an ASGI application: auto, asyncio or uvloop [default: auto]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s e -l env -d 'Set an environment variable for the application; may be repeated' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l pythonpath -d 'Directories to search for modules before all others, separated by commas' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l root-path -d 'The URL path under which a proxy publishes the application, e.g. /shop' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s b -l bind -d 'HOST:PORT, HOST (port 8000), :PORT (all IPv4 addresses) or unix:PATH; may be repeated; several addresses are separated by commas [default: 127.0.0.1:8000; with PORT in the environment 0.0.0.0:$PORT]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l forwarded-allow-ips -d 'Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses and networks separated by commas, * for all, "" for none [env: FORWARDED_ALLOW_IPS] [default: those on this machine]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l proxy-protocol -d 'Each connection begins with a PROXY header; v1, v2 and auto (also without a value) accept both versions [default: off]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l proxy-allow-from -d 'Proxies that may send a PROXY header, written as in --forwarded-allow-ips [default: the proxies listed there]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l certfile -d 'PEM file with the certificate and its intermediate ones: clients speak TLS' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l keyfile -d 'PEM file with the certificate\'s private key [default: the file of --certfile]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l ca-certs -d 'PEM file with the authorities whose client certificates are valid' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l cert-reqs -d 'Client certificates: 0 or off, 1 or optional, 2 or required [default: 0]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s w -l workers -d 'Worker processes: a number, a range such as 1-9 to scale with the load, or auto for two per core plus one [default: 1 with APP, else auto]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l threads -d 'WSGI: requests one worker runs at a time [default: 1]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l max-requests -d 'Replace a worker after this many requests; 0 for never [default: 0]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l max-requests-jitter -d 'Raise each worker\'s --max-requests by a random number from 0 to N, so that they are not all replaced at once [default: 0]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s g -l group -d 'Run the workers with this group [default: that of --user]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s t -l timeout -d 'Maximum time the application may take for a request: 120 (seconds), 500ms, 2m; 0 for no limit [default: 30; none for ASGI with APP]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l graceful-timeout -d 'Maximum time running requests have to finish when rgun stops or reloads [default: 30]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l keep-alive -d 'Time until an idle connection is closed; 0 closes it after each response [default: 75]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-request-line -d 'Maximum length of the request line in bytes [default: 8KiB]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-request-fields -d 'Maximum number of header fields [default: 100]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-request-field_size -d 'Maximum size of all header fields together, in bytes [default: 16KiB]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l ws-max-size -d 'Maximum size of a message from a client [default: 16MiB]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l ws-ping-interval -d 'Ping a client that has sent nothing for this long; 0 for never [default: 20]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l ws-ping-timeout -d 'Close the connection if a ping is not answered within this time; 0 for never [default: 20]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l ws-per-message-deflate -d 'true or false: compress messages if the client supports it [default: true]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l log-level -d 'The least severe level that is logged: error, warning, info, debug or trace [default: info]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l log-format -d 'The format of the log: auto, text or json [default: auto, which is readable on a terminal and has all fields elsewhere]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l log-config -d 'Configure Python\'s logging in the workers from this file: JSON, YAML or TOML if it has such an extension, else ini' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l access-logfile -d '"-" logs each request: to the journal under systemd, elsewhere to stdout' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l access-logformat -d 'The line of a request in the access log, in gunicorn\'s notation: \'%(h)s "%(r)s" %(s)s\'' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-dir -d 'A directory in which every Python file is watched, not only imported ones; may be repeated' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-include -d 'Further files to watch: a pattern of names or paths, such as *.css or conf/site.yaml; may be repeated' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-exclude -d 'Files and directories not to watch; may be repeated' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-delay -d 'Time without a change after which the reload starts [default: 50ms]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-extra-file -d 'Gunicorn\'s name for --reload-include' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload-engine -d 'auto, inotify or poll, which file systems without inotify need [default: auto]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l header-map -d 'Gunicorn\'s name for `http.underscores`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l http-protocols -d 'Gunicorn\'s name for `http.http2`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l http2-max-concurrent-streams -d 'Gunicorn\'s name for `limits.streams`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l host -d '`--host HOST --port PORT` is `--bind HOST:PORT`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l port -d 'See `host`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l uds -d '`--uds PATH` is `--bind unix:PATH`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l app-dir -d 'The first directory of `--pythonpath`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-max-requests -d '`--max-requests`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-max-requests-jitter -d '`--max-requests-jitter`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l limit-concurrency -d '`limits.queue`: further requests are answered 503, as in uvicorn' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l timeout-keep-alive -d '`--keep-alive`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l timeout-graceful-shutdown -d '`--graceful-timeout`' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l unit -d 'As root: check with this unit\'s user and settings [default: rgun.service, or the instance whose file is checked]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -s u -l user -d 'As root: check as this user, with its groups [default: User= of the unit]' -r
complete -c rgun -n "__fish_rgun_using_subcommand check" -l preload -d 'Import the application once and fork the workers, which share that memory'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l reload -d 'Load new code when a file that the application uses changes; the old code serves until the new one can'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l http2 -d 'Uvicorn\'s name for `http.http2 = true`'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l check-config -d 'Gunicorn\'s name for `rgun check`'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l factory -d 'Calls APP to make the application, as "()" at the end of APP does'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l proxy-headers -d 'The default: trusts the proxies of `proxy.trusted`'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l no-proxy-headers -d 'Trusts no proxy'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l access-log -d '`--access-logfile -`'
complete -c rgun -n "__fish_rgun_using_subcommand check" -l no-access-log -d 'No `--access-logfile`'
complete -c rgun -n "__fish_rgun_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rgun -n "__fish_rgun_using_subcommand reload" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand reload" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand status" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand status" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand status" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand workers" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand workers" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand workers" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand requests" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand requests" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand requests" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand top" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand top" -l once -d 'Print them once, as without a terminal'
complete -c rgun -n "__fish_rgun_using_subcommand top" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand stacks" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand stacks" -s w -l worker -d 'Only those of the worker with this number' -r
complete -c rgun -n "__fish_rgun_using_subcommand stacks" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand stacks" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand scale" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand scale" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand scale" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand drain" -l socket -d 'The daemon\'s control socket [default: control in /run/rgun-NAME; without NAME, in $RUNTIME_DIRECTORY or /run/rgun]' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand drain" -l json -d 'Print the reply as one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand drain" -l undo -d 'Answer health checks as usual again'
complete -c rgun -n "__fish_rgun_using_subcommand drain" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand doctor" -l json -d 'Print one JSON object'
complete -c rgun -n "__fish_rgun_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand init" -s d -l directory -d 'The project\'s directory' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand init" -s u -l user -d 'The user of the service [default: the owner of a project in a home directory, else a user of the service\'s own]' -r
complete -c rgun -n "__fish_rgun_using_subcommand init" -s b -l bind -d 'The address to listen on, as in --bind [default: that of the socket unit]' -r
complete -c rgun -n "__fish_rgun_using_subcommand init" -l python -d 'The interpreter; it also runs a gunicorn.conf.py in the project\'s directory [default: that of the project\'s virtual environment]' -r
complete -c rgun -n "__fish_rgun_using_subcommand init" -l root -d 'Write below this directory, the root of an image; create no user and check nothing' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand init" -s y -l yes -d 'Write without asking'
complete -c rgun -n "__fish_rgun_using_subcommand init" -s h -l help -d 'Print help'
complete -c rgun -n "__fish_rgun_using_subcommand migrate" -l write -d 'Also write the files below this directory; on a terminal, ask first; existing files are kept' -r -F
complete -c rgun -n "__fish_rgun_using_subcommand migrate" -l python -d 'The interpreter that runs a gunicorn.conf.py [default: that of the virtual environment in its directory]' -r
complete -c rgun -n "__fish_rgun_using_subcommand migrate" -s y -l yes -d 'Write without asking'
complete -c rgun -n "__fish_rgun_using_subcommand migrate" -s h -l help -d 'Print help'
