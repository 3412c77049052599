"""What operators deploy: valid by its schemas, and at one with the server it deploys."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from losswire_server.config import ServerSettings
from losswire_server.local import LocalServer
from losswire_server.metrics import Metrics
from losswire_server.runtime import METRICS_OF_THE_MOMENT

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
KINDS = {
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "HorizontalPodAutoscaler",
}


def loaded(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_valid(path):
    """By the schemas of Kubernetes, without a field too many."""
    kubernetes_validate.validate(loaded(path), "1.31", strict=True)


def test_every_kind_is_there_and_selects_the_servers():
    """All manifests mean the same pods."""
    manifests = {each["kind"]: each for each in map(loaded, MANIFESTS)}
    assert set(manifests) == KINDS
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    name = manifests["Deployment"]["metadata"]["name"]
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name


def settings_of_kubernetes():
    (container,) = loaded("deploy/kubernetes/deployment.yaml")["spec"]["template"]["spec"][
        "containers"
    ]
    return {each["name"]: each["value"] for each in container["env"]}


def settings_of_compose():
    return loaded("docker/compose.yaml")["services"]["server"]["environment"]


@pytest.mark.parametrize("settings", [settings_of_kubernetes, settings_of_compose])
def test_settings_are_the_servers(settings):
    """Each variable is a setting, with a value that it takes."""
    given = settings()
    fields = {name.removeprefix("LOSSWIRE_").lower(): value for name, value in given.items()}
    assert all(name.startswith("LOSSWIRE_") for name in given)
    assert set(fields) <= set(ServerSettings.model_fields)
    ServerSettings.model_validate(fields)


def test_ports_are_those_that_are_listened_on():
    """Of the container, its probes, the service, the network's rules and the scraper."""
    deployment = loaded("deploy/kubernetes/deployment.yaml")["spec"]["template"]
    (container,) = deployment["spec"]["containers"]
    calls = ServerSettings.model_fields["port"].default
    metrics = int(settings_of_kubernetes()["LOSSWIRE_METRICS_PORT"])
    assert {each["containerPort"] for each in container["ports"]} == {calls, metrics}
    assert container["startupProbe"]["grpc"]["port"] == calls
    assert container["readinessProbe"]["grpc"]["port"] == calls
    assert deployment["metadata"]["annotations"]["prometheus.io/port"] == str(metrics)
    rules = loaded("deploy/kubernetes/network.yaml")["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in rules] == [calls, metrics]
    (scraped,) = loaded("deploy/prometheus.yml")["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == [
        f"server:{settings_of_compose()['LOSSWIRE_METRICS_PORT']}"
    ]


def test_a_server_is_not_killed_while_it_drains():
    """Whoever ends it waits longer than it takes."""
    drain = ServerSettings.model_fields["drain_seconds"].default
    pod = loaded("deploy/kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain
    grace = loaded("docker/compose.yaml")["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > drain


def test_compose_mounts_what_is_there():
    """Every file and folder of this repository that a container wants exists."""
    services = loaded("docker/compose.yaml")["services"]
    mounts = [mount for each in services.values() for mount in each.get("volumes", [])]
    local = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(local) == 4
    assert [path for path in local if not (ROOT / "docker" / path).exists()] == []
    assert set(services) == {"server", "worker", "prometheus", "grafana"}


def metrics():
    """The names of all samples that a server has."""
    made = Metrics()
    made.describe(version="", engine="", device="")
    for name, what in METRICS_OF_THE_MOMENT.items():
        made.watch(name, what, lambda: 0)
    made.answered("m", [])
    with made.call("m") as call:
        call.received(call.sent(b""))
    families = text_string_to_metric_families(generate_latest(made.registry).decode())
    return {sample.name for family in families for sample in family.samples}


def test_the_dashboard_and_the_scaler_ask_for_metrics_that_are_there():
    """No panel stays empty for a name that nobody exports."""
    dashboard = (ROOT / "deploy/grafana/dashboards/losswire.json").read_text(encoding="utf-8")
    panels = json.loads(dashboard)["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += re.findall(r"rate\([^)]*", (ROOT / "deploy/kubernetes/scaler.yaml").read_text())
    names = set(re.findall(r"\b(?:losswire|process)_[a-z_]+", " ".join(asked)))
    assert len(names) > 12
    assert names <= metrics()


def test_the_example_worker_learns():
    """The worker of compose.yaml, for a few steps; its loss goes down."""
    with LocalServer(engine="numpy") as server:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "examples/worker.py"), "--steps", "101"],
            env={"LOSSWIRE_TARGET": server.target},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    losses = [float(line.split()[-1]) for line in ended.stdout.splitlines()]
    assert len(losses) == 3
    assert losses[-1] < losses[0] / 2


def test_the_dockerfile_has_no_findings():
    """By hadolint."""
    hadolint = Path(sys.executable).parent / "hadolint"
    ended = subprocess.run(
        [hadolint, ROOT / "docker/Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")
