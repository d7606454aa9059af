# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The controller: observations in, commands out, once a period; a lifecycle node.

`configure` loads, verifies and warms up the bundle; `activate` starts the loop; `deactivate` sends
the safe command. The loop has its own thread and never waits for a callback: the newest
observation lies in a slot, a newer bundle is prepared elsewhere and taken between two ticks.
"""

from __future__ import annotations

import json
import math
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, String, UInt8MultiArray, UInt64
from std_srvs.srv import Trigger

from pruned_controller.conversions import (
    COMMAND,
    LATCHED,
    METRIC,
    NEWEST,
    archive_of,
    to_array,
    to_message,
)
from pruned_controller.node_main import run_node
from pruned_controller.parameters import CONTROLLER, declare, read
from pruning_core.errors import BundleError, ConfigError, PruningError, explain
from pruning_core.runtime.bundle import Bundle, Manifest, open_bundle, unpack
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.fit import fit
from pruning_core.runtime.joint_map import JointMap
from pruning_core.runtime.loop import PeriodicLoop, Tick
from pruning_core.runtime.metrics import LatencyStats
from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.runtime.planner import Plan, Planner
from pruning_core.runtime.supervisor import Decision, Mode, Supervisor, SupervisorSettings


@dataclass(frozen=True)
class Observed:
    """The newest observation: (O,) values and the monotonic time they were measured at."""

    values: npt.NDArray[np.float64]
    measured_s: float


@dataclass
class Active:
    """One bundle in use, with everything that is counted per bundle."""

    planner: Planner
    monitor: StabilityMonitor
    bundle: Bundle
    origin: str
    compute: LatencyStats
    lateness: LatencyStats
    age: LatencyStats
    modes: dict[Mode, int]
    given_up: tuple[int, int] = (0, 0)  # iterations and samples of the last plan


class ControllerNode(LifecycleNode):
    """See the module; topics, services and parameters stand in the README."""

    def __init__(self) -> None:
        """Declare parameters; everything else waits for `configure`."""
        super().__init__('controller')
        declare(self, CONTROLLER, read_only=False)  # fixed ones may change while unconfigured
        self.add_on_set_parameters_callback(self._may_set)
        self.add_post_set_parameters_callback(self._on_parameters)
        self._settings: dict[str, Any] = {}
        self._loop: PeriodicLoop | None = None
        self._observed: Observed | None = None
        self._interval_s = math.inf  # between the last two observations
        self._active: Active | None = None  # written by the loop while it runs
        self._pending: Active | None = None  # taken by the loop between two ticks
        self._previous: Active | None = None
        self._supervisor: Supervisor | None = None
        self._reset_asked = False
        self._decision: Decision | None = None
        self._errors: list[str] = []
        self._errors_told = 0
        self._rejected = ''
        self._told: tuple[Any, ...] = ()
        self._preparing = threading.Lock()
        self._made: list[Callable[[], object]] = []

    # ---- lifecycle -----------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, verify and warm up; then listen."""
        return self._guarded('configure', self._configure_or_nothing)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the loop."""
        return self._guarded('activate', lambda: self._activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the loop and send the safe command."""
        return self._guarded('deactivate', lambda: self._deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that `configure` made."""
        return self._guarded('cleanup', self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop from any state."""
        return self._guarded('shutdown', self.close)

    def _guarded(self, what: str, does: Callable[[], object]) -> TransitionCallbackReturn:
        """Answer a transition; rclpy would swallow an exception without a word."""
        try:
            does()
        except PruningError as error:
            self.get_logger().error(f'{what} refused: {error}')
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(f'{what} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure_or_nothing(self) -> None:
        try:
            self._configure()
        except BaseException:
            self._cleanup()  # so that the parameters that were wrong can be set
            raise

    def _configure(self) -> None:
        s = self._settings = read(self, CONTROLLER)
        if not s['bundle']:
            raise ConfigError(
                explain('the controller was configured', "parameter 'bundle' is empty",
                        'a bundle folder', 'export one (python -m pruning_core export --agent '
                        'pendulum_dense --out FOLDER) and set the parameter bundle to it')
            )
        active = self._prepare(open_bundle(Path(s['bundle']).expanduser()), 'parameter')
        manifest = active.bundle.manifest
        self._supervisor = Supervisor(
            manifest,
            SupervisorSettings(s['observation_timeout'], s['hold_ticks'],
                               s['max_consecutive_misses'], s['recover_ticks'], s['blend_ticks']),
            make_fallback(s['fallback'], manifest))
        listen = self._listen(manifest)
        self._active = active
        self._interface(listen)
        self.get_logger().info(
            f'bundle {active.bundle.hash[:16]}: {manifest.parameters} parameters for '
            f'{manifest.env_id}, period {manifest.period_s:g} s')

    def _listen(self, manifest: Manifest) -> Callable[[], object]:
        """Check the source of observations; returns what subscribes to it."""
        s, group = self._settings, MutuallyExclusiveCallbackGroup()
        width = len(manifest.observation.names)
        if s['input'] == 'joint_states':
            mapping = JointMap(s['joint_map'])
            if len(mapping) != width:
                raise ConfigError(
                    explain('joint_states were to be mapped', f'joint_map has {len(mapping)} '
                            'entries', f'{width}: {", ".join(manifest.observation.names)}',
                            'give one entry for each')
                )
            return lambda: self.create_subscription(
                JointState, 'joint_states', lambda m: self._on_joint_states(mapping, m), NEWEST,
                callback_group=group)
        if s['input'] != 'observation':
            raise ConfigError(
                explain(f"input '{s['input']}' was asked for", 'it is not known',
                        'observation, joint_states', "set the parameter 'input' to one of these")
            )
        return lambda: self.create_subscription(
            Float64MultiArray, 'observation', self._on_observation, NEWEST, callback_group=group)

    def _interface(self, listen: Callable[[], object]) -> None:
        """Make publishers, subscriptions and services."""
        listener, slow = listen(), MutuallyExclusiveCallbackGroup()
        self._command = self.create_publisher(Float64MultiArray, 'command', COMMAND)
        self._metrics = {
            name: self.create_publisher(kind, f'~/{name}', METRIC)
            for name, kind in (('latency', Float64), ('lateness', Float64),
                               ('observation_age', Float64), ('deadline_misses', UInt64),
                               ('reward', Float64), ('stability', Float64))}
        self._mode = self.create_publisher(String, '~/mode', LATCHED)
        self._model = self.create_publisher(String, '~/model', LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', METRIC)
        services = [
            self.create_service(Trigger, f'~/{name}', does, callback_group=slow)
            for name, does in (('reload', self._on_reload), ('rollback', self._on_rollback),
                               ('reset_fallback', self._on_reset_fallback))]
        timers = [self.create_timer(0.1, self._tell), self.create_timer(1.0, self._diagnose)]
        subscriptions = [listener]
        if self._settings['bundle_topic']:
            subscriptions.append(self.create_subscription(
                UInt8MultiArray, self._settings['bundle_topic'], self._on_bundle, LATCHED,
                callback_group=slow))
        publishers = [self._command, self._mode, self._model, self._diagnostics,
                      *self._metrics.values()]
        self._made = [
            *(lambda x=x: self.destroy_subscription(x) for x in subscriptions),
            *(lambda x=x: self.destroy_service(x) for x in services),
            *(lambda x=x: self.destroy_timer(x) for x in timers),
            *(lambda x=x: self.destroy_publisher(x) for x in publishers)]
        self._told = ()

    def _activate(self, state: LifecycleState) -> None:
        super().on_activate(state)
        assert self._active is not None and self._supervisor is not None
        self._active.planner.reset()
        self._supervisor.restart()
        self._loop = PeriodicLoop(self._active.bundle.manifest.period_s, self._on_tick,
                                  on_error=self._on_tick_error)
        self._loop.start()

    def _deactivate(self, state: LifecycleState) -> None:
        self._stop_loop()
        super().on_deactivate(state)

    def _stop_loop(self) -> None:
        if self._loop is None:
            return
        self._loop.stop(timeout_s=5.0)
        self._loop = None
        if self._active is not None and rclpy.ok():
            safe = make_fallback('zero', self._active.bundle.manifest).act(None)
            self._command.publish(to_message(safe))
            self._command.wait_for_all_acked(Duration(seconds=0.2))  # this node may be gone next

    def _cleanup(self) -> None:
        for destroy in self._made:
            destroy()
        self._made = []
        self._active = self._pending = self._previous = self._supervisor = None
        self._observed = self._decision = None
        self._settings = {}

    def close(self) -> None:
        """Stop the loop, sending the safe command, and free everything."""
        self._stop_loop()
        self._cleanup()

    # ---- the tick; nothing here waits for anything but the planner -------------------------

    def _on_tick(self, tick: Tick) -> None:
        loop, active, supervisor = self._loop, self._take_pending(), self._supervisor
        if loop is None or supervisor is None:
            return
        if self._reset_asked:
            self._reset_asked = False
            supervisor.reset()
        supervisor.missed(tick.skipped)
        began = time.monotonic()
        seen = self._observed
        age = began - seen.measured_s if seen else math.inf
        values = seen.values if seen else None
        plan: Plan | None = None
        if not supervisor.problem(values, age):
            budget = self._settings['planner.budget'] or None
            try:
                plan = active.planner.plan(
                    values, budget if supervisor.may_plan else 0.0)  # type: ignore[arg-type]
            except Exception as error:  # the supervisor holds, then falls back, and says so
                self._errors.append(''.join(traceback.format_exception(error)))
        if self._loop is not loop:
            return  # deactivated while this plan was made; the safe command was the last word
        decision = supervisor.decide(values, age, plan.action if plan else None,
                                     plan.policy_action if plan else None)
        self._command.publish(to_message(decision.command))
        compute = time.monotonic() - began
        self._decision = decision
        active.compute.add(compute)
        active.lateness.add(max(0.0, tick.lateness_s))
        if seen is not None:  # before the first observation there is no age to count
            active.age.add(age)
        active.modes[decision.mode] += 1
        stability = math.nan
        if plan is not None and values is not None:
            active.given_up = plan.given_up_iterations, plan.given_up_samples
            stability = active.monitor.update(values.tolist()).share
        if tick.index % self._settings['publish_every'] == 0:
            for name, value in (('latency', compute), ('lateness', tick.lateness_s),
                                ('observation_age', age),
                                ('reward', plan.reward if plan else math.nan),
                                ('stability', stability)):
                self._metrics[name].publish(Float64(data=float(value)))
            self._metrics['deadline_misses'].publish(UInt64(data=loop.skipped))
        self._lock_phase(tick, age)

    def _use(self, other: Active) -> None:
        """Change the model; another size of plan is not what `rollback` goes back from."""
        if self._active is None or other.bundle.hash != self._active.bundle.hash:
            self._previous = self._active
        self._active = other

    def _take_pending(self) -> Active:
        """Change the model, if another one is ready, by moving one reference."""
        pending = self._pending
        if pending is not None:
            self._pending = None
            self._use(pending)
        assert self._active is not None
        return self._active

    def _lock_phase(self, tick: Tick, age: float) -> None:
        """Aim ticks shortly after observations, so that the plant's next step has a command."""
        target, period = self._settings['phase'], tick.period_s
        if target < 0 or not math.isfinite(age) or tick.lateness_s > target:
            return
        if self._interval_s < 0.5 * period:
            return  # a sensor that fast always has a fresh one; there is no phase to lock to
        off = (age - target) % period
        if self._loop is not None:
            self._loop.slew(-off if off < period / 2 else period - off)

    def _on_tick_error(self, error: BaseException) -> None:
        self._errors.append(''.join(traceback.format_exception(error)))
        if self._active is not None and self._loop is not None:
            # The robot must still get a command it can live with.
            safe = make_fallback('zero', self._active.bundle.manifest).act(None)
            self._command.publish(to_message(safe))

    # ---- observations ------------------------------------------------------------------------

    def _on_observation(self, message: Float64MultiArray) -> None:
        self._observe(to_array(message), time.monotonic())

    def _on_joint_states(self, mapping: JointMap, message: JointState) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        now = time.monotonic()
        delay = self.get_clock().now().nanoseconds * 1e-9 - stamp if stamp > 0 else 0.0
        # A stamp from the future (another machine's clock) must not make an observation younger.
        self._observe(mapping(message), now - max(0.0, delay))

    def _observe(self, values: npt.NDArray[np.float64], measured_s: float) -> None:
        if self._observed is not None:
            self._interval_s = measured_s - self._observed.measured_s
        self._observed = Observed(values, measured_s)

    # ---- bundles -----------------------------------------------------------------------------

    def _prepare(self, bundle: Bundle, origin: str) -> Active:
        """Open a bundle for use and warm it up; raises without touching what runs."""
        s = self._settings
        current = self._active.bundle.manifest if self._active else None
        m = bundle.manifest
        if current is not None:
            for name in ('observation', 'action', 'period_s'):
                if getattr(current, name) != getattr(m, name):
                    raise BundleError(
                        explain(f'bundle {bundle.hash[:16]} was offered',
                                f'its {name} is {getattr(m, name)}',
                                f'{getattr(current, name)}, as the running one',
                                'deactivate and configure the controller with this bundle')
                    )
        size = {name: s[f'planner.{name}'] for name in ('samples', 'iterations', 'threads')}
        if s['planner.fit']:
            size = asdict(fit(bundle, share=s['planner.fit']).choice)
        planner = Planner(bundle, seed=s['planner.seed'], **size)
        try:
            slowest_s = planner.warm_up()
        except Exception as error:  # onnxruntime's own classes share no public root
            raise BundleError(
                explain(f'bundle {bundle.hash[:16]} was tried',
                        f'its graphs do not run together ({error})'[:300],
                        'the four graphs of one agent', 'export it again')
            ) from error
        if slowest_s > m.period_s:
            self.get_logger().warning(
                f'bundle {bundle.hash[:16]} plans for {slowest_s:.3f} s here, its period is '
                f'{m.period_s:g} s: it will miss deadlines')
        seen = self._observed
        if (seen is not None and seen.values.shape == (len(m.observation.names),)
                and np.isfinite(seen.values).all()):
            action = planner.plan(seen.values).action
            planner.reset()
            if not np.isfinite(action).all():
                raise BundleError(
                    explain(f'bundle {bundle.hash[:16]} was tried on the present observation',
                            f'its command is {action.tolist()}', 'finite numbers',
                            'prune or train again')
                )
        return Active(planner, StabilityMonitor(m.lyapunov), bundle, origin, LatencyStats(),
                      LatencyStats(), LatencyStats(), dict.fromkeys(Mode, 0))

    def _on_parameters(self, parameters: list[Parameter]) -> None:
        """Take what changed: the budget at the next tick, another size of plan like a bundle."""
        if not self._settings:
            return  # `configure` reads them all
        changed = {p.name: p.value for p in parameters if p.name in self._settings}
        self._settings = {**self._settings, **changed}
        active = self._pending or self._active
        if active is not None and changed.keys() & {'planner.samples', 'planner.iterations'}:
            # Opening and warming up takes a while; lifecycle and reports must not wait for it.
            threading.Thread(target=self._resize, args=(active.bundle,), daemon=True).start()

    def _resize(self, bundle: Bundle) -> None:
        try:
            self.get_logger().info(self._offer(bundle, 'parameters', again=True))
        except PruningError as error:
            self.get_logger().error(f'the running plan stays: {error}')

    def _may_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse, while configured, what is read when configuring; `reload` reads `bundle`."""
        fixed = {p.name for p in CONTROLLER if p.fixed} - {'bundle'}
        late = [p.name for p in parameters if p.name in fixed]
        if not (self._settings and late):
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=explain(
            f"'{late[0]}' was set", 'the controller is configured', 'while it is unconfigured',
            'ros2 lifecycle set /controller deactivate, cleanup; set it; configure, activate'))

    def _offer(self, bundle: Bundle, origin: str, again: bool = False) -> str:
        """Prepare a bundle and hand it to the loop; returns what happened."""
        with self._preparing:
            newest = self._pending or self._active
            if newest is not None and newest.bundle.hash == bundle.hash and not again:
                return f'bundle {bundle.hash[:16]} is already in use'
            prepared = self._prepare(bundle, origin)
            if self._loop is not None and self._loop.alive:
                self._pending = prepared
            else:
                self._use(prepared)
        return f'bundle {bundle.hash[:16]} replaces the running one at the next tick'

    def _on_bundle(self, message: UInt8MultiArray) -> None:
        try:
            content, hash = archive_of(message)
            store = Path(self._settings['store']).expanduser()
            said = self._offer(unpack(content, store, hash), self._settings['bundle_topic'])
            self._rejected = ''
            self.get_logger().info(said)
        except (PruningError, OSError) as error:
            self._rejected = str(error) if isinstance(error, PruningError) else explain(
                'a bundle was to be stored', str(error), 'a folder that can be written, with room',
                "correct the parameter 'store'; the running bundle stays")
            self.get_logger().error(f'bundle refused, the running one stays: {self._rejected}')

    def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            bundle = open_bundle(Path(self._settings['bundle']).expanduser())
            response.message, response.success = self._offer(bundle, 'reload'), True
        except PruningError as error:
            response.message, response.success = str(error), False
        return response

    def _on_rollback(self, request: Trigger.Request, response: Trigger.Response
                     ) -> Trigger.Response:
        previous = self._previous
        if previous is None:
            response.success, response.message = False, explain(
                'the bundle before was asked for', 'there is none',
                'a rollback once another bundle was taken', 'prune, or set bundle and ~/reload')
            return response
        try:
            response.message, response.success = self._offer(previous.bundle, 'rollback'), True
        except PruningError as error:
            response.message, response.success = str(error), False
        return response

    def _on_reset_fallback(self, request: Trigger.Request, response: Trigger.Response
                           ) -> Trigger.Response:
        self._reset_asked = True
        response.success, response.message = True, 'the fallback is left at the next good tick'
        return response

    # ---- reports; never from the loop ----------------------------------------------------------

    def _tell(self) -> None:
        """Publish mode and model where they changed, and log what the loop could not."""
        while self._errors:
            self.get_logger().error('a tick failed: ' + self._errors.pop(0),
                                    throttle_duration_sec=1.0)
        active, decision = self._active, self._decision
        if active is None:
            return
        mode = (decision.mode.value + (f': {decision.reason}' if decision.reason else '')
                if decision and self._loop else 'inactive')
        told = (mode, active.bundle.hash)
        if not self._told or self._told[1] != told[1]:
            self._model.publish(String(data=json.dumps(self._facts(active))))
        if not self._told or self._told[0] != told[0]:
            self._mode.publish(String(data=mode))
        self._told = told

    def _facts(self, active: Active) -> dict[str, Any]:
        m, p = active.bundle.manifest, active.planner.settings
        return {'hash': active.bundle.hash, 'parent': m.parent, 'parameters': m.parameters,
                'dense_parameters': m.dense_parameters, 'macs': m.macs,
                'dense_macs': m.dense_macs, 'bytes': active.bundle.size,
                'samples': p.samples, 'iterations': p.iterations, 'origin': active.origin}

    def _diagnose(self) -> None:
        active, loop = self._active, self._loop
        if active is None:
            return
        status = DiagnosticStatus(name=f'{self.get_name()}: control loop',
                                  hardware_id=active.bundle.manifest.env_id)
        compute, late, age = (x.summary() for x in
                              (active.compute, active.lateness, active.age))
        period = active.bundle.manifest.period_s
        values: dict[str, Any] = {
            'model': active.bundle.hash, 'period_s': period,
            **{f'compute_{k}': getattr(compute, k) for k in
               ('p50_s', 'p90_s', 'p99_s', 'p999_s', 'max_s')},
            'lateness_p99_s': late.p99_s, 'observation_age_p99_s': age.p99_s,
            'ticks': loop.ticks if loop else 0, 'missed': loop.missed if loop else 0,
            'skipped': loop.skipped if loop else 0, 'late': loop.late if loop else 0,
            'errors': loop.errors if loop else 0, 'rejected_bundle': self._rejected,
            'given_up_iterations': active.given_up[0], 'given_up_samples': active.given_up[1],
            **{f'mode_{m.value}': n for m, n in active.modes.items()}}
        mode = self._decision.mode if self._decision else Mode.FALLBACK
        if loop is None:
            status.level, status.message = DiagnosticStatus.OK, 'inactive'
        elif not loop.alive:
            status.level, status.message = DiagnosticStatus.ERROR, 'the control loop has ended'
        elif mode in (Mode.HOLD, Mode.FALLBACK):
            status.level = DiagnosticStatus.ERROR
            status.message = f'{mode.value}: {self._decision.reason if self._decision else ""}'
        elif loop.errors > self._errors_told:
            status.level = DiagnosticStatus.ERROR
            status.message = f'{loop.errors - self._errors_told} ticks failed in the last second'
        elif compute.count and compute.p50_s > period:
            status.level = DiagnosticStatus.WARN
            status.message = f'planning takes {compute.p50_s:.3f} s, the period is {period:g} s'
        else:
            status.level, status.message = DiagnosticStatus.OK, mode.value
        self._errors_told = loop.errors if loop else 0
        status.values = [KeyValue(key=k, value=f'{v:.6g}' if isinstance(v, float) else str(v))
                         for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(arguments: list[str] | None = None) -> int:
    """Run the controller."""
    return run_node(ControllerNode, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
