"""The examples for containers and platforms: their commands serve, and their formats are valid."""

import json
import os
import pathlib
import re
import shlex
import signal

import kubernetes_validate
import pytest
import yaml
from support.daemon import Daemon
from support.http_client import Connection
from support.paths import TOP
from support.ports import free_port
from support.waiting import DEADLINE, wait_until

EXAMPLES = TOP / "packaging" / "examples"
# The command of `/orphan` leaves a process whose parent has ended; process 1 has to reap it.
APPLICATION = """
import os, pathlib, subprocess

def app(environ, start_response):
    if environ["PATH_INFO"] == "/orphan":
        body = subprocess.run("true & echo $!", shell=True, capture_output=True).stdout
    else:
        pid = environ["PATH_INFO"].strip("/")
        body = b"there" if pid and pathlib.Path("/proc", pid).exists() else b"gone"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""


@pytest.fixture
def project(tmp_path):
    """The directory of an application `main:app`."""
    (tmp_path / "main.py").write_text(APPLICATION)
    return tmp_path


def get(port, path):
    """Returns the body of a response."""
    with Connection(("127.0.0.1", port)) as connection:
        return connection.request("GET", path).body


def containerfile():
    """Returns the variables and the command of the Containerfile."""
    text = (EXAMPLES / "Containerfile").read_text().replace("\\\n", " ")
    words = [word for line in re.findall(r"^ENV (.+)$", text, re.M) for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words), json.loads(re.search(r"^CMD (.+)$", text, re.M)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a process namespace")
def test_container_command_serves_as_process_1(environment, project):
    variables, (name, *arguments) = containerfile()
    port = free_port()
    program = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", environment.path / "bin" / name]
    env = {**variables, "PORT": str(port)}
    daemon = Daemon(*arguments, chdir=project, bind=None, python=None, program=program, env=env)
    try:
        daemon.wait_ready()
        orphan = get(port, "/orphan").decode().strip()
        wait_until(f"process {orphan} is reaped", lambda: get(port, f"/{orphan}") == b"gone")
        assert get(port, variables["RGUN_HEALTH_PATH"]) == b"ready\n"
        assert all(json.loads(line) for line in daemon.log().splitlines())
        unshare = daemon.process.pid
        (rgun,) = pathlib.Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        os.kill(int(rgun), signal.SIGTERM)
        assert daemon.process.wait(DEADLINE) == 0
    finally:
        daemon.stop()


def test_procfile_serves_on_the_platforms_port(environment, project):
    kind, command = (EXAMPLES / "Procfile").read_text().strip().split(": ", 1)
    assert kind == "web"
    port = free_port()
    env = {"PORT": str(port), "PATH": f"{environment.path}/bin:{os.environ['PATH']}"}
    # A platform runs the line in a shell; the first argument is the shell's $0.
    program = ["sh", "-c", f'exec {command} "$@"']
    daemon = Daemon("sh", chdir=project, bind=None, python=None, program=program, env=env)
    try:
        daemon.wait_ready()
        assert get(port, "/") == b"gone"
    finally:
        daemon.stop()


def test_kubernetes_objects_match_their_schemas():
    objects = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    for described in objects:
        kubernetes_validate.validate(described, "1.30", strict=True)
    kinds = [described["kind"] for described in objects]
    assert kinds == [
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "CronJob",
        "HorizontalPodAutoscaler",
    ]


def containers():
    """Returns the container of the Deployment, and the variables that it sets."""
    deployment = next(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container, {item["name"]: item["value"] for item in container["env"]}


def test_kubernetes_pod_serves_the_metrics_that_scale_it(environment, project):
    container, variables = containers()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert variables["RGUN_METRICS_BIND"] == f":{ports['metrics']}"
    app, metrics = free_port(), free_port()
    env = {
        **variables,
        "PORT": str(app),
        "RGUN_METRICS_BIND": f":{metrics}",
        "RGUN_TIMEOUTS_DRAIN_DELAY": "0s",
    }
    program = [environment.path / "bin" / "rgun"]
    daemon = Daemon("main:app", chdir=project, bind=None, python=None, program=program, env=env)
    try:
        daemon.wait_ready()
        families = get(metrics, "/metrics").decode()
    finally:
        daemon.stop()
    autoscaler = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))[-1]
    (pods,) = (metric["pods"] for metric in autoscaler["spec"]["metrics"] if metric["type"] == "Pods")
    assert f"# TYPE {pods['metric']['name']} gauge" in families
    (query,) = (
        trigger["metadata"]["query"]
        for trigger in keda()["spec"]["triggers"]
        if "query" in trigger["metadata"]
    )
    name = re.search(r"rgun_\w+", query)[0]
    assert f"\n{name}{{le=" in families


def keda():
    """Returns the example for KEDA."""
    return yaml.safe_load((EXAMPLES / "keda.yaml").read_text())


def test_keda_object_has_the_fields_of_its_definition():
    """By hand: no package has the schema of KEDA's CustomResourceDefinition."""
    scaled = keda()
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = scaled["spec"]
    known = {
        "scaleTargetRef",
        "minReplicaCount",
        "maxReplicaCount",
        "pollingInterval",
        "triggers",
    }
    assert set(spec) <= known
    deployment, *_, autoscaler = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    assert spec["scaleTargetRef"] == autoscaler["spec"]["scaleTargetRef"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    bounds = [spec[name] for name in ("minReplicaCount", "maxReplicaCount", "pollingInterval")]
    assert all(isinstance(bound, int) for bound in bounds)
    by_type = {trigger["type"]: trigger for trigger in spec["triggers"]}
    assert set(by_type) == {"prometheus", "cpu"}
    for trigger in by_type.values():
        assert set(trigger) == {"type", "metricType", "metadata"}
        # The values of metadata are strings.
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert by_type["prometheus"]["metricType"] in ("Value", "AverageValue")
    assert set(by_type["prometheus"]["metadata"]) == {"serverAddress", "query", "threshold"}
    assert (by_type["cpu"]["metricType"], set(by_type["cpu"]["metadata"])) == ("Utilization", {"value"})


def test_kubernetes_grace_period_covers_the_drain():
    deployment = next(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    pod = deployment["spec"]["template"]["spec"]
    variables = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
    drain = [int(variables[f"RGUN_TIMEOUTS_{name}"].rstrip("s")) for name in ("DRAIN_DELAY", "DRAIN")]
    assert sum(drain) < pod["terminationGracePeriodSeconds"]
