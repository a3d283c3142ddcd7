"""Metrics for Prometheus, with labels that are bounded whatever clients ask for.

A route is told by its template, which few applications have many of, and never by its path. Where the framework does
not tell the template (an integration, or the framework's own router, puts it into the scope or environ) it is
`unmatched`.
"""

import re
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from postresponse.exceptions import ConfigurationError
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.telemetry.measures import Names, commits_of, method_of
from postresponse.work.current import default_supervisor
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["PrometheusObserver"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusObserver(Observer):
    """Counts commits, responses and jobs, and tells when scraped what waits and runs.

    Args:
        registry: Where the metrics are registered.
        namespace: What their names begin with.
        supervisors: Whose jobs and bulkheads are told; None for the supervisor of this process.
        max_routes: Templates of routes that are told apart, at most; further ones are `other`.
        max_jobs: Names of jobs that are told apart, at most; further ones are `other`.

    Raises:
        ConfigurationError: A value that an option cannot have; or the registry has metrics of these names.

    Example:
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> def app(environ, start_response): ...
        >>> metrics = PrometheusObserver(registry=CollectorRegistry())
        >>> app = PostResponseMiddleware(app, observers=[metrics])
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry = REGISTRY,
        namespace: str = "postresponse",
        supervisors: Sequence[TaskSupervisor] | None = None,
        max_routes: int = 100,
        max_jobs: int = 100,
    ) -> None:
        check_registry(registry, namespace)
        self._routes, self._names = Names("max_routes", max_routes), Names("max_jobs", max_jobs)
        live = _Live(namespace, _supervisors(supervisors))
        self._commits = Counter(
            "commits",
            "Commits and rollbacks: managed are those of units of work, the others were seen.",
            ("method", "route", "managed", "position", "outcome"),
            namespace=namespace,
            registry=None,
        )
        self._seconds = Histogram(
            "commit_seconds",
            "How long they took.",
            ("managed", "outcome"),
            namespace=namespace,
            buckets=_SECONDS,
            registry=None,
        )
        self._responses = Counter(
            "responses",
            "Responses, by how they ended.",
            ("method", "route", "ending"),
            namespace=namespace,
            registry=None,
        )
        self._jobs = Counter("jobs", "Jobs, by how they ended.", ("job", "outcome"), namespace=namespace, registry=None)
        register(registry, namespace, (self._commits, self._seconds, self._responses, self._jobs, live))

    def ended(self, trace: Trace, begun: object) -> None:
        """Count the response, and its commits."""
        method, route = method_of(trace), self._routes(trace.template)
        self._responses.labels(method, route, trace.outcome.ending.value).inc()
        for commit in commits_of(trace):
            managed = "yes" if commit.managed else "no"
            self._commits.labels(method, route, managed, commit.position, commit.outcome).inc()
            self._seconds.labels(managed, commit.outcome).observe(commit.seconds)

    def job_ended(self, trace: JobTrace) -> None:
        """Count it."""
        self._jobs.labels(self._names(trace.name), trace.state).inc()


class _Live:
    """What waits and runs, counted when somebody asks."""

    def __init__(self, namespace: str, supervisors: Sequence[TaskSupervisor]) -> None:
        self._namespace = namespace
        self._supervisors = supervisors

    def describe(self) -> Iterable[Metric]:
        """Tell the names, so that a registry refuses two of one name."""
        return self._families()

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                f"{self._namespace}_live_jobs",
                "Jobs that wait or run.",
                labels=("supervisor", "state"),
            ),
            GaugeMetricFamily(
                f"{self._namespace}_bulkhead_jobs",
                "Jobs that wait for a slot of a bulkhead, or have one.",
                labels=("supervisor", "bulkhead", "state"),
            ),
        )

    def collect(self) -> Iterator[Metric]:
        """Count."""
        jobs, bulkheads = self._families()
        for labels, count in self._live().items():
            jobs.add_metric(labels, count)
        for labels, count in self._bulkheads().items():
            bulkheads.add_metric(labels, count)
        yield jobs
        yield bulkheads

    def _live(self) -> "Tally[tuple[str, ...]]":
        counted: Tally[tuple[str, ...]] = Tally()
        for supervisor in self._supervisors:
            states = Tally("waiting" if job.state == "waiting" else "running" for job in supervisor.jobs())
            for state in ("waiting", "running"):
                counted[supervisor.name, state] += states[state]  # two may have one name
        return counted

    def _bulkheads(self) -> "Tally[tuple[str, ...]]":
        counted: Tally[tuple[str, ...]] = Tally()
        for supervisor in self._supervisors:
            for name, gate in list(supervisor._gates.items()):
                counted[supervisor.name, name, "waiting"] += len(gate.waiting)
                counted[supervisor.name, name, "running"] += gate.running
        return counted


def check_registry(registry: object, namespace: object) -> None:
    """Refuse what is no registry, and what no name may begin with.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(registry, CollectorRegistry):
        raise ConfigurationError(f"registry: expected a CollectorRegistry of prometheus_client's, found {registry!r}")
    if not isinstance(namespace, str) or not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", namespace):
        raise ConfigurationError(f"namespace: expected letters, digits and underscores, found {namespace!r}")


def register(registry: CollectorRegistry, namespace: str, collectors: Iterable[object]) -> None:
    """Register all of *collectors*, or none.

    Raises:
        ConfigurationError: There are metrics of the same names.
    """
    done: list[object] = []
    try:
        for each in collectors:
            registry.register(each)  # type: ignore[arg-type]
            done.append(each)
    except ValueError as error:
        for each in done:
            registry.unregister(each)  # type: ignore[arg-type]
        raise ConfigurationError(
            f"registry: it has metrics of {namespace!r} already; give one observer to all middleware, "
            "or another namespace="
        ) from error


def _supervisors(given: object) -> Sequence[TaskSupervisor]:
    if given is None:
        return (default_supervisor(),)
    if not isinstance(given, list | tuple) or not all(isinstance(each, TaskSupervisor) for each in given):
        raise ConfigurationError(f"supervisors: expected a list of TaskSupervisor, found {given!r}")
    return tuple(given)
