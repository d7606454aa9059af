# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The controller: observations in, commands out, once a period; a lifecycle node.

`configure` loads, verifies and warms up the bundle; `activate` starts the loop; `deactivate` sends
the safe command. The loop has its own thread and never waits for a callback: the newest
observation lies in a slot, a newer bundle is prepared elsewhere and taken between two ticks.
"""

from __future__ import annotations

import json
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Float64, Float64MultiArray, String, UInt8MultiArray, UInt64
from std_srvs.srv import Trigger

from pruned_controller import diagnostics
from pruned_controller.bundles import BundleDesk, Told
from pruned_controller.conversions import (
    LATCHED,
    METRIC,
    NEWEST,
    archive_of,
    offered,
    to_array,
    to_message,
    trace_message,
)
from pruned_controller.node_main import run_node
from pruned_controller.parameters import CONTROLLER, declare, read
from pruning_core.errors import ConfigError, PruningError, explain
from pruning_core.runtime.arrival import StampCheck
from pruning_core.runtime.bundle import Manifest
from pruning_core.runtime.envelope import Envelope
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.faults import Fault, FaultInjector
from pruning_core.runtime.joint_map import JointMap
from pruning_core.runtime.loop import PeriodicLoop, Tick
from pruning_core.runtime.memory import return_freed_memory
from pruning_core.runtime.pilot import Pilot
from pruning_core.runtime.realtime import RealTime, RealTimeSettings, SlackCollector, cores
from pruning_core.runtime.supervisor import Supervisor, SupervisorSettings
from pruning_core.runtime.swap import Model, Observation

if TYPE_CHECKING:
    from sensor_msgs.msg import JointState

_FAULT = 'fault_injection.'
_MAX_NOTES = 100  # that wait to be logged


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
        self._desk: BundleDesk | None = None
        self._pilot: Pilot | None = None
        self._faults: FaultInjector | None = None
        self._realtime = RealTime(RealTimeSettings())
        self._collect = SlackCollector()
        # What the loop would like to be logged: kind, and text or error; it never logs itself.
        self._notes: deque[tuple[str, str | BaseException]] = deque(maxlen=_MAX_NOTES)
        self._since = diagnostics.Since()
        self._told: tuple[Any, ...] = ()
        self._made: list[Callable[[], object]] = []
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._answered(service.callback)
        self._starter = (self.create_timer(0.0, self._start_by_itself)
                         if self.get_parameter('autostart').value else None)

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

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition: safe, free of everything, ready to be configured."""
        return self._guarded('recover from an error', self.close)

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

    def _answered(self, change: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Answer a transition that the present state does not have, where rclpy only raises."""
        def answer(request: ChangeState.Request, response: ChangeState.Response
                   ) -> ChangeState.Response:
            try:
                return change(request, response)
            except RCLError as error:
                self.get_logger().error(explain(
                    f'transition {request.transition.id} was asked for', str(error),
                    ', '.join(label for _, label, *_ in self._state_machine.available_transitions),
                    'ask for one of these'))
                response.success = False
                return response
        return answer

    def _start_by_itself(self) -> None:
        """Become active without a manager, as after a respawn; a refusal was logged."""
        assert self._starter is not None
        self._starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _configure_or_nothing(self) -> None:
        try:
            self._configure()
        except BaseException:
            self._cleanup()  # so that the parameters that were wrong can be set
            raise

    def _configure(self) -> None:
        s = self._settings = read(self, CONTROLLER)
        fault = _fault(s)
        realtime = RealTimeSettings(
            cores(s['realtime.cores']), s['realtime.priority'], s['realtime.lock_memory'],
            s['realtime.freeze_gc'], s['realtime.switch_interval'])
        log = self.get_logger()
        self._desk = BundleDesk(s, self._usable, lambda: self._loop is not None,
                                Told(log.info, log.warning, log.error))
        first = self._desk.switch.active
        manifest = first.bundle.manifest
        supervisor = Supervisor(
            manifest,
            SupervisorSettings(s['observation_timeout'], s['hold_ticks'],
                               s['max_consecutive_misses'], s['recover_ticks'], s['blend_ticks'],
                               s['proof_ticks'], s['command_rate'], s['max_residual'],
                               s['residual_ticks']),
            make_fallback(s['fallback'], manifest),
            Envelope.of(manifest, s['envelope_margin'], [e for e in s['envelope'] if e]))
        if s[_FAULT + 'enabled']:
            self._faults = FaultInjector()
            self._faults.choose(fault)
            log.warning('fault_injection is enabled: this controller may be told to fail')
        self._pilot = Pilot(
            self._desk.switch, supervisor, StampCheck(s['observation_timeout']), send=self._send,
            note=self._note, faults=self._faults, budget_s=s['planner.budget'],
            phase_s=s['phase'],
            wall_clock=lambda: self.get_clock().now().nanoseconds * 1e-9)
        self._realtime, self._collect = RealTime(realtime), SlackCollector()
        listen = self._listen(manifest)
        self._interface(listen, manifest)
        log.info(f'bundle {first.hash[:16]} ({first.origin}): {manifest.parameters} parameters '
                 f'for {manifest.env_id}, period {manifest.period_s:g} s')

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
            from sensor_msgs.msg import JointState  # a megabyte that this input alone needs

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

    def _interface(self, listen: Callable[[], object], manifest: Manifest) -> None:
        """Make publishers, subscriptions and services.

        Each of these groups has a thread of its own: a slow bundle keeps neither observations nor
        reports nor `reset_fallback` waiting.
        """
        listener = listen()
        slow, quick, reports = (MutuallyExclusiveCallbackGroup() for _ in range(3))
        self._command = self.create_publisher(
            Float64MultiArray, 'command', offered(manifest.period_s))
        self._metrics = {
            name: self.create_publisher(kind, f'~/{name}', METRIC)
            for name, kind in (('latency', Float64), ('lateness', Float64),
                               ('observation_age', Float64), ('deadline_misses', UInt64),
                               ('reward', Float64), ('stability', Float64))}
        self._trace = self.create_publisher(Float64MultiArray, '~/trace', METRIC)
        self._mode = self.create_publisher(String, '~/mode', LATCHED)
        self._model = self.create_publisher(String, '~/model', LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', METRIC)
        services = [
            self.create_service(Trigger, f'~/{name}', does, callback_group=group)
            for name, does, group in (('reload', self._on_reload, slow),
                                      ('rollback', self._on_rollback, quick),
                                      ('reset_fallback', self._on_reset_fallback, quick))]
        timers = [self.create_timer(0.1, self._tell, callback_group=reports),
                  self.create_timer(1.0, self._diagnose, callback_group=reports)]
        subscriptions = [listener]
        if self._settings['bundle_topic']:
            subscriptions.append(self.create_subscription(
                UInt8MultiArray, self._settings['bundle_topic'], self._on_bundle, LATCHED,
                callback_group=slow))
        publishers = [self._command, self._mode, self._model, self._diagnostics,
                      self._trace, *self._metrics.values()]
        self._made = [
            *(lambda x=x: self.destroy_subscription(x) for x in subscriptions),
            *(lambda x=x: self.destroy_service(x) for x in services),
            *(lambda x=x: self.destroy_timer(x) for x in timers),
            *(lambda x=x: self.destroy_publisher(x) for x in publishers)]
        self._told = ()

    def _activate(self, state: LifecycleState) -> None:
        super().on_activate(state)
        assert self._desk is not None and self._pilot is not None
        self._pilot.restart()
        self._since = diagnostics.Since()
        self._realtime.prepare_process()
        self._realtime.lift_others()
        self._loop = PeriodicLoop(
            self._desk.switch.active.bundle.manifest.period_s, self._on_tick,
            on_error=self._on_tick_error, on_start=self._realtime.prepare_thread,
            on_slack=self._collect if self._settings['realtime.freeze_gc'] else lambda _: None)
        self._loop.start()

    def _deactivate(self, state: LifecycleState) -> None:
        self._stop_loop()
        super().on_deactivate(state)

    def _stop_loop(self) -> None:
        """End the loop; the safe command is the last word, and does not wait for a hung tick."""
        loop, self._loop = self._loop, None
        if loop is None or self._desk is None or self._pilot is None:
            return
        period_s = self._desk.switch.active.bundle.manifest.period_s
        ended = loop.stop(timeout_s=max(0.1, 2 * period_s))
        if rclpy.ok():
            self._pilot.send_safe()
            self._command.wait_for_all_acked(Duration(seconds=0.2))  # this node may be gone next
        if not ended and not loop.stop(timeout_s=5.0):
            self.get_logger().error('a tick hangs; its thread was left behind')
        self._realtime.restore()

    def _send(self, command: npt.NDArray[np.float64], model: str) -> None:
        self._command.publish(to_message(command, model))

    def _cleanup(self) -> None:
        if self._desk is not None:
            self._desk.close()
        for destroy in self._made:
            destroy()
        self._made = []
        self._desk = self._pilot = self._faults = None
        self._settings = {}

    def close(self) -> None:
        """Stop the loop, sending the safe command, and free everything."""
        self._stop_loop()
        self._cleanup()

    # ---- the loop and what it steers by; see `Pilot` ------------------------------------------

    def _on_tick(self, tick: Tick) -> None:
        loop, pilot = self._loop, self._pilot
        if loop is None or pilot is None:
            return
        steered = pilot.tick(tick, wanted=lambda: self._loop is loop)
        if steered is None:
            return
        if tick.index % self._settings['publish_every'] == 0:
            for name, value in (('latency', steered.compute_s), ('lateness', tick.lateness_s),
                                ('observation_age', steered.age_s), ('reward', steered.reward),
                                ('stability', steered.share)):
                self._metrics[name].publish(Float64(data=float(value)))
            self._metrics['deadline_misses'].publish(UInt64(data=loop.skipped))
            if steered.trace is not None and self._trace.get_subscription_count():
                self._trace.publish(trace_message(steered.trace()))
        loop.slew(steered.slew_s)

    def _on_tick_error(self, error: BaseException) -> None:
        self._note(error)
        if self._loop is not None and self._pilot is not None:
            self._pilot.send_safe()  # the robot must still get a command it can live with

    def _note(self, what: str | BaseException) -> None:
        self._notes.append(('failed tick' if isinstance(what, BaseException) else 'error', what))

    def _on_observation(self, message: Float64MultiArray) -> None:
        self._observe(to_array(message), 0.0)

    def _on_joint_states(self, mapping: JointMap, message: JointState) -> None:
        self._observe(mapping(message),
                      message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)

    def _observe(self, values: Observation, stamp_s: float) -> None:
        if (pilot := self._pilot) is not None:
            pilot.observe(values, stamp_s)

    def _usable(self) -> Observation | None:
        pilot = self._pilot
        return None if pilot is None else pilot.usable()

    # ---- parameters --------------------------------------------------------------------------

    def _may_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse, while configured, what is read when configuring; `reload` reads `bundle`."""
        fixed = {p.name for p in CONTROLLER if p.fixed} - {'bundle'}
        late = [p.name for p in parameters if p.name in fixed]
        if self._settings and late:
            return SetParametersResult(successful=False, reason=explain(
                f"'{late[0]}' was set", 'the controller is configured', 'while it is unconfigured',
                'ros2 lifecycle set /controller deactivate, cleanup; set it; configure, activate'))
        faults = {p.name: p.value for p in parameters if p.name.startswith(_FAULT)}
        if self._settings and faults:
            if self._faults is None:
                return SetParametersResult(successful=False, reason=explain(
                    f"'{next(iter(faults))}' was set", 'fault_injection.enabled is false',
                    'faults where it was true at configuring', 'never enable it on a robot'))
            try:
                _fault({**self._settings, **faults})
            except PruningError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_parameters(self, parameters: list[Parameter]) -> None:
        """Take what changed: the budget at the next tick, another size of plan like a bundle."""
        desk = self._desk
        if not self._settings or desk is None:
            return  # `configure` reads them all
        changed = {p.name: p.value for p in parameters if p.name in self._settings}
        self._settings = {**self._settings, **changed}
        desk.use(self._settings)
        if self._pilot is not None:
            self._pilot.budget_s = self._settings['planner.budget']
        if self._faults is not None and any(name.startswith(_FAULT) for name in changed):
            self._faults.choose(_fault(self._settings))
        if changed.keys() & {'planner.samples', 'planner.iterations'}:
            # Opening and warming up takes a while; lifecycle and reports must not wait for it.
            desk.resize().add_done_callback(self._on_resized)

    def _on_resized(self, done: Future[str]) -> None:
        try:
            self._notes.append(('info', done.result()))
        except CancelledError:
            pass
        except PruningError as error:
            self._notes.append(('error', f'the running plan stays: {error}'))

    # ---- bundles -----------------------------------------------------------------------------

    def _on_bundle(self, message: UInt8MultiArray) -> None:
        desk = self._desk
        if desk is None:
            return
        try:
            content, hash = archive_of(message)
        except PruningError as error:
            self._refuse(desk, error)
            return
        desk.receive(content, hash).add_done_callback(lambda done: self._on_received(desk, done))

    def _on_received(self, desk: BundleDesk, done: Future[str]) -> None:
        try:
            said = done.result()
        except CancelledError:
            return
        except Exception as error:
            self._refuse(desk, error)
            return
        desk.rejected = ''
        self._notes.append(('info', said))

    def _refuse(self, desk: BundleDesk, error: Exception) -> None:
        if isinstance(error, PruningError):
            desk.rejected = str(error)
        elif isinstance(error, OSError):
            desk.rejected = explain(
                'a bundle was to be stored', str(error), 'a folder that can be written, with room',
                "correct the parameter 'store'; the running bundle stays")
        else:
            desk.rejected = ''.join(traceback.format_exception(error))
        self._notes.append(('error', f'bundle refused, the running one stays: {desk.rejected}'))

    def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, lambda desk: desk.reload(
            self.get_parameter('bundle').value).result())

    def _on_rollback(self, request: Trigger.Request, response: Trigger.Response
                     ) -> Trigger.Response:
        return self._answer(response, lambda desk: desk.roll_back())

    def _answer(self, response: Trigger.Response, does: Callable[[BundleDesk], str]
                ) -> Trigger.Response:
        try:
            if self._desk is None:
                raise CancelledError
            response.message, response.success = does(self._desk), True
        except CancelledError:
            response.message, response.success = explain(
                'a bundle was asked for', 'the controller is being cleaned up',
                'a configured controller', 'configure it first'), False
        except PruningError as error:
            response.message, response.success = str(error), False
        return response

    def _on_reset_fallback(self, request: Trigger.Request, response: Trigger.Response
                           ) -> Trigger.Response:
        if self._pilot is not None:
            self._pilot.reset_fallback()
        response.success, response.message = True, 'the fallback is left at the next good tick'
        return response

    # ---- reports; never from the loop ----------------------------------------------------------

    def _tell(self) -> None:
        """Publish mode and model where they changed, and log what the loop could not."""
        while self._notes:
            kind, what = self._notes.popleft()
            if isinstance(what, BaseException):
                self.get_logger().error(
                    f'a tick failed: {"".join(traceback.format_exception(what))}',
                    throttle_duration_sec=1.0)
            elif kind == 'info':
                self.get_logger().info(what)
            else:
                self.get_logger().error(what)
        desk, pilot = self._desk, self._pilot
        if desk is None or pilot is None:
            return
        decision = pilot.decision
        desk.tidy_up()
        active = desk.switch.active
        mode = (decision.mode.value + (f': {decision.reason}' if decision.reason else '')
                if decision and self._loop else 'inactive')
        told = (mode, active.hash)
        if not self._told or self._told[1] != told[1]:
            self._model.publish(String(data=json.dumps(_facts(active))))
        if not self._told or self._told[0] != told[0]:
            self._mode.publish(String(data=mode))
        self._told = told

    def _diagnose(self) -> None:
        desk, pilot, loop = self._desk, self._pilot, self._loop
        if desk is None or pilot is None:
            return
        if loop is not None:
            self._realtime.lift_others()
        switch, name = desk.switch, self.get_name()
        if loop is not None and (said := diagnostics.misses(loop, self._since)):
            self.get_logger().warning(said, throttle_duration_sec=10.0)
        parts = (
            ('control loop', diagnostics.loop_status(loop, switch, pilot.decision, self._since)),
            ('observations', diagnostics.observation_status(switch, pilot.stamps)),
            ('model', diagnostics.model_status(switch, desk.rejected)),
            ('stability', diagnostics.stability_status(switch)),
            ('real time', diagnostics.realtime_status(
                self._realtime.achieved, self._collect.collections, self._collect.longest_s)))
        self._since = (diagnostics.Since(loop.missed, loop.slow, loop.held_up, loop.errors)
                       if loop else diagnostics.Since())
        hardware = switch.active.bundle.manifest.env_id
        message = DiagnosticArray(status=[
            diagnostics.status(f'{name}: {what}', hardware, found) for what, found in parts])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _fault(settings: dict[str, Any]) -> Fault:
    return Fault(settings[_FAULT + 'observation'], settings[_FAULT + 'plan'],
                 settings[_FAULT + 'stall'], settings[_FAULT + 'ticks'])


def _facts(active: Model) -> dict[str, Any]:
    m, p = active.bundle.manifest, active.planner.settings
    return {'hash': active.hash, 'parent': m.parent, 'parameters': m.parameters,
            'dense_parameters': m.dense_parameters, 'macs': m.macs,
            'dense_macs': m.dense_macs, 'bytes': active.bundle.size,
            'samples': p.samples, 'iterations': p.iterations, 'origin': active.origin}


def main(arguments: list[str] | None = None) -> int:
    """Run the controller."""
    return_freed_memory()
    return run_node(ControllerNode, arguments, threads=6)


if __name__ == '__main__':
    raise SystemExit(main())
