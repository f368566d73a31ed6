"""The Kubernetes manifests of the guides follow Kubernetes' schemas and use existing settings."""

import re
import sys

import kubernetes_validate
import pytest
import yaml
from support.daemon import run_check
from support.paths import CLIENTS_APPS, TOP

# The oldest and newest maintained versions of Kubernetes whose schemas kubernetes-validate has.
VERSIONS = ["1.31", "1.34"]


def manifests():
    """Yields the guide's name and each manifest in it; a lone `spec` is taken for that of a Pod."""
    for guide in sorted((TOP / "packaging/doc").glob("*.md")):
        for text in re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.S):
            for manifest in yaml.safe_load_all(text):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}}
                if "spec" in manifest:
                    yield guide.name, {**pod, **manifest}


def test_guides_have_a_manifest():
    assert "health.md" in dict(manifests())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "manifest"), list(manifests()))
def test_manifest_conforms_to_the_schema(name, manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(("name", "manifest"), list(manifests()))
def test_variables_of_the_manifest_are_settings_of_rgun(name, manifest):
    spec = manifest["spec"]
    (container,) = spec["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    status, output = run_check(sys.executable, CLIENTS_APPS, "with_flask_sock", env=env)
    assert status == 0, output
    assert [name for name in env if name in output] == [], output
    (port,) = [port["containerPort"] for port in container["ports"]]
    assert env["RGUN_LISTEN_BIND"] == f":{port}"
    drain_seconds = sum(int(env[f"RGUN_TIMEOUTS_{key}"].rstrip("s")) for key in ("DRAIN_DELAY", "DRAIN"))
    assert spec["terminationGracePeriodSeconds"] > drain_seconds


@pytest.mark.parametrize(("name", "manifest"), list(manifests()))
def test_probes_name_the_health_paths(name, manifest):
    (container,) = manifest["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    ready, live = env["RGUN_HEALTH_PATH"], env["RGUN_HEALTH_LIVE_PATH"]
    assert paths == {"startupProbe": ready, "readinessProbe": ready, "livenessProbe": live}
