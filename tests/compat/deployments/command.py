"""Finds the command in a file of a deployment, as the program that reads the file does."""

import json
import re
import shlex

# Matches the server's name on a command line. uWSGI is left to `rgun migrate`.
SERVER = re.compile(
    r"(?<![\w./-])(?:\S*(?i:python)\S* -m )?(?P<place>(?:[\w.$~{}-]*/)*)(?:gunicorn|uvicorn)(?=$|[\s\"',])",
    re.M,
)


class Command:
    """A command that starts the server: a line for `sh`, its directory and its variables."""

    def __init__(self, line, directory=None, env=None, sockets=()):
        self.line = line
        self.directory = directory
        self.env = env or {}
        # The addresses that systemd listens on for the command.
        self.sockets = list(sockets)
        # EnvironmentFile= and RuntimeDirectory= of a unit, as paths.
        self.environment_files = []
        self.runtime_directories = []


def with_rgun(text, rgun):
    """Replaces the server's name with the path `rgun`, or with the word "rgun" if the path is None."""
    changed, count = SERVER.subn(rgun or "rgun", text, count=1)
    assert count == 1, f"no server is started by\n{text}"
    return changed


def script(path):
    """Returns the command that runs a script."""
    return Command(f"exec {shlex.quote(path)}")


def procfile(text):
    """Reads the process type `web`, as Heroku does."""
    return Command(re.search(r"^web: *(.+)$", text, re.M)[1])


def makefile(text):
    """Reads the recipe of the first rule."""
    return Command(text[text.index("\n\t") + 2 :].split("\n\n")[0].replace("\\\n\t", ""))


def compose(text):
    """Reads the first `command:`, on one line or folded."""
    found = re.search(r"^( *)command: *(?:>-?\n)?((?:.*\n)(?:\1 +.*\n)*)", text, re.M)
    directory = re.search(r"working_dir: *(\S+)", text)
    words = found[2].strip()
    words = shlex.join(json.loads(words)) if words.startswith("[") else " ".join(words.split())
    return Command(f"exec {words}", directory and directory[1])


def supervisor(text):
    """Reads the first program."""
    pairs = dict(re.findall(r"^(\w+) *= *(.*)$", text, re.M))
    variables = re.findall(r"(\w+)=\"([^\"]*)\"", pairs.get("environment", ""))
    return Command(f"exec {pairs['command']}", pairs.get("directory"), dict(variables))


def containerfile(text):
    """Reads ENV, WORKDIR and CMD; a CMD without brackets is a line for sh."""
    env, directory, line = {}, None, None
    for word, rest in re.findall(r"^(ENV|WORKDIR|CMD|ENTRYPOINT) +((?:.*\\\n)*.*)$", text, re.M):
        rest = rest.replace("\\\n", " ")
        if word == "ENV":
            pairs = shlex.split(rest) if "=" in rest else ["=".join(rest.split(None, 1))]
            env.update(pair.split("=", 1) for pair in pairs)
        elif word == "WORKDIR":
            directory = rest.strip()
        elif rest.startswith("["):
            line = f"exec {' '.join(shlex.quote(word) for word in json.loads(rest))}"
        else:
            line = rest
    return Command(line, directory, env)


def unit(text, socket_unit=""):
    """Reads ExecStart= and the variables of a unit, and ListenStream= of its socket unit."""
    text = text.replace("\\\n", " ")
    values = {}
    for name, value in re.findall(r"^(\w+) *= *(.*)$", text, re.M):
        values.setdefault(name, []).append(value)
    env = {}
    for line in values.get("Environment", []):
        env.update(pair.split("=", 1) for pair in shlex.split(line))
    line = "exec " + values.get("ExecStart", [""])[-1]
    directory = values.get("WorkingDirectory", [None])[-1]
    command = Command(line, directory, env, re.findall(r"^ListenStream *= *(.*)$", socket_unit, re.M))
    command.environment_files = [name.lstrip("-") for name in values.get("EnvironmentFile", [])]
    command.runtime_directories = [f"/run/{name}" for name in values.get("RuntimeDirectory", [])]
    return command


READERS = {
    "procfile": procfile,
    "makefile": makefile,
    "compose": compose,
    "supervisor": supervisor,
    "container": containerfile,
    "unit": unit,
}
