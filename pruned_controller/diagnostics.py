# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says of a controller: one status per subject, one number per key.

The shape is that of ros2_control's controller manager: the name is 'node: subject', a level with a
short message for people, and values for plots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from pruning_core.runtime.arrival import StampCheck
from pruning_core.runtime.loop import PeriodicLoop
from pruning_core.runtime.supervisor import Decision, Mode
from pruning_core.runtime.swap import ModelSwitch

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_HUNG = 5  # periods that a tick may last before it counts as hung


@dataclass(frozen=True)
class Since:
    """What the counters were at the report before this one."""

    missed: int = 0
    slow: int = 0
    held_up: int = 0
    errors: int = 0


def loop_status(loop: PeriodicLoop | None, switch: ModelSwitch, decision: Decision | None,
                since: Since) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values of the control loop."""
    active = switch.active
    compute, late = active.compute.summary(), active.lateness.summary()
    period = active.bundle.manifest.period_s
    values: dict[str, Any] = {
        'period_s': period,
        **{f'compute_{k}': getattr(compute, k) for k in
           ('mean_s', 'std_s', 'min_s', 'p50_s', 'p90_s', 'p99_s', 'p999_s', 'max_s')},
        **{f'lateness_{k}': getattr(late, k) for k in ('p50_s', 'p99_s', 'p999_s', 'max_s')},
        **{name: getattr(loop, name) if loop else 0
           for name in ('ticks', 'missed', 'slow', 'held_up', 'skipped', 'late', 'errors')},
        'given_up_iterations': active.given_up[0], 'given_up_samples': active.given_up[1],
        **{f'mode_{m.value}': n for m, n in active.modes.items()}}
    if loop is None:
        return OK, 'inactive', values
    mode = decision.mode if decision else Mode.FALLBACK
    if not loop.alive:
        return ERROR, 'the control loop has ended', values
    if loop.busy_s > _HUNG * period:
        return ERROR, f'a tick hangs since {loop.busy_s:.1f} s', values
    if mode in (Mode.HOLD, Mode.FALLBACK):
        return ERROR, f'{mode.value}: {decision.reason if decision else ""}', values
    if loop.errors > since.errors:
        return ERROR, f'{loop.errors - since.errors} ticks failed in the last second', values
    if compute.count and compute.p50_s > period:
        return WARN, f'planning takes {compute.p50_s:.3f} s, the period is {period:g} s', values
    if said := misses(loop, since):
        return WARN, said, values
    return OK, mode.value, values


def misses(loop: PeriodicLoop, since: Since) -> str:
    """Say which deadlines were missed since the last report, and by whose fault; or nothing."""
    missed, slow = loop.missed - since.missed, loop.slow - since.slow
    if missed <= 0:
        return ''
    return (f'{missed} deadlines missed in the last second: {slow} by slow compute '
            f'({loop.held_up - since.held_up} of it held up by others), '
            f'{missed - slow} by a late start')


def observation_status(switch: ModelSwitch, stamps: StampCheck
                       ) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values of what arrives."""
    age = switch.active.age.summary()
    values: dict[str, Any] = {
        **{f'observation_age_{k}': getattr(age, k) for k in ('p50_s', 'p99_s', 'max_s')},
        **{name: getattr(stamps, name) for name in ('reordered', 'future', 'jumps')}}
    return OK, 'no observation yet' if not age.count else 'observations', values


def model_status(switch: ModelSwitch, rejected: str) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values of the bundle that acts."""
    active, previous = switch.active, switch.previous
    values = {'model': active.hash, 'origin': active.origin,
              'previous': previous.hash if previous else '', 'proven': switch.proven,
              'on_probation': int(switch.on_probation), 'quarantined': len(switch.quarantined),
              'rejected_bundle': rejected}
    if rejected:
        return WARN, 'the last bundle was refused', values
    if switch.quarantined:
        return WARN, f'{len(switch.quarantined)} bundles were changed back', values
    return OK, 'on probation' if switch.on_probation else 'in use', values


def stability_status(switch: ModelSwitch) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values of the closed loop's stability; NaN what is not measurable."""
    reading = switch.active.monitor.reading
    values: dict[str, Any] = {
        'share': reading.share, 'residual': reading.residual, 'saturation': reading.saturation,
        'chatter': reading.chatter, 'value': reading.value, 'envelope': reading.envelope}
    if reading.envelope_valid and reading.envelope > 1:
        return WARN, 'the state lies outside what the stability gate tested', values
    measured = reading.valid or reading.residual_valid or reading.commands_valid
    return OK, 'measured' if measured else 'not measured yet', values


def realtime_status(achieved: Mapping[str, str], collections: int, longest_s: float
                    ) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values of the settings of the operating system."""
    values: dict[str, Any] = {**achieved, 'collections': collections,
                              'longest_collection_s': longest_s}
    refused = [name for name, how in achieved.items() if how.startswith('refused')]
    if refused:
        return WARN, f'refused: {", ".join(refused)}', values
    return OK, 'as asked for', values


def status(name: str, hardware: str, found: tuple[bytes, str, dict[str, Any]]
           ) -> DiagnosticStatus:
    """Make one status of the message."""
    level, message, values = found
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware,
        values=[KeyValue(key=k, value=f'{v:.6g}' if isinstance(v, float) else str(v))
                for k, v in values.items()])
