# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: it receives images and publishes a growing map."""
from __future__ import annotations

import concurrent.futures
import gc
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from spann3r_ros.core.network import Compute, Network
from spann3r_ros.core.views import prepare_resize
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.storage.map_directory import MapEmptyError
from spann3r_ros.networks.registry import free_device_memory, open_network, resolve_checkpoint
from spann3r_ros.networks.threads import wait_without_spinning
from spann3r_ros.pipeline.node_settings import all_settings

from . import parameters
from .inputs.subscriptions import image_topic
from .lifecycle import RobustLifecycleNode, TransitionFailedError, reported
from .logs import forward_logging
from .session import Session
from .stopping import ignore_signals, stop_on_signals
from .tf.listener import ListeningThread

SPIN_TIMEOUT_SEC = 0.2
Answer = TypeVar('Answer', Trigger.Response, SetBool.Response)
CreateNetwork = Callable[[str, Mapping[str, Any], Compute], Network]


def load_network(checkpoint: str, settings: Mapping[str, Any], compute: Compute) -> Network:
    """Open a checkpoint; raise ValueError or OSError if checkpoint or settings are wrong."""
    return open_network(resolve_checkpoint(checkpoint), settings, compute)


class MapperNode(RobustLifecycleNode):
    """The lifecycle of a `Session`, and the services; all callbacks run on one executor thread.

    Raises ValueError and rclpy's ParameterException for parameters that are unknown or wrong.
    """

    def __init__(self, create_network: CreateNetwork = load_network) -> None:
        super().__init__('mapper')
        self._create_network = create_network
        self._session: Session | None = None
        self._listening: ListeningThread | None = None
        parameters.declare(self)
        parameters.read(self)
        self.add_pre_set_parameters_callback(parameters.with_types)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        self._listening = ListeningThread(self)
        self.create_service(Trigger, '~/reset', self._reset)
        self.create_service(Trigger, '~/new_fragment', self._new_fragment)
        self.create_service(SetBool, '~/set_enabled', self._set_enabled)
        # A group of their own: other callbacks run while a map is written; a second call waits.
        files = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, '~/save_map', self._save_map, callback_group=files)
        self.create_service(Trigger, '~/load_map', self._load_map, callback_group=files)

    def autostart(self) -> None:
        """Configure and activate if the parameter `autostart` is true."""
        if not parameters.read(self).node.autostart:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop the worker and destroy the session, in any state."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        # Worker, session and mapper refer to each other. Collecting them now frees their memory.
        del session
        gc.collect()
        free_device_memory()

    def destroy_node(self) -> None:
        """Stop the thread that listens to TF, then destroy the node."""
        if self._listening is not None:
            self._listening.stop()
            self._listening = None
        super().destroy_node()

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and create the publishers."""
        settings = parameters.read(self)
        self.get_logger().info(
            f'configuring: loads {settings.node.checkpoint or "the bundled weights"}; the images '
            f'will be those on {image_topic(self, settings.node)[1]}')
        try:
            network = self._create_network(
                settings.node.checkpoint, settings.networks, settings.node.compute)
        except (ValueError, OSError) as error:
            raise TransitionFailedError(str(error)) from error
        prepare_resize(settings.mapper.resampling == 'exact')
        self._session = Session(self, settings, Mapper(network, settings.mapper),
                                self._listening)
        # Once torch is loaded, the first log line of rclpy takes a second. Here no frame waits.
        height, width = network.input_size(aspect=1.0)
        threads = network.status().threads
        self.get_logger().info(f'configured: {settings.node.mode} mode, {network.name} has an '
                               f'input of {width}x{height} pixels for a square image'
                               + (f', {threads} threads' if threads else ''))
        return super().on_configure(state)

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate the publishers and accept images."""
        result = super().on_activate(state)
        self._session.activate()
        return result

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept no more images; keep the map."""
        self._session.deactivate()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo `on_configure`."""
        self.close()
        return super().on_cleanup(state)

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self.close()
        return super().on_shutdown(state)

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        self.close()
        return super().on_error(state)

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        names = {item.name for item in all_settings()}
        changes = {one.name: one.value for one in changed if one.name in names}
        try:
            if self._session is None:
                parameters.read(self, changes)
            else:
                parameters.change(self, changes)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changed: list[Parameter]) -> None:
        names = {item.name for item in all_settings()}
        texts = [f'{one.name} = {one.value!r}' for one in changed if one.name in names]
        if self._session is None or not texts:
            return
        try:
            self._session.configure(parameters.read(self))
        # An exception that leaves this callback would end the process.
        except Exception:
            self.get_logger().error(f'parameters not applied: {traceback.format_exc()}')
        else:
            self.get_logger().info(f'parameters applied: {", ".join(texts)}')

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, 'reset', Session.reset)

    def _new_fragment(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, 'divide', Session.new_fragment)

    def _set_enabled(self, request: SetBool.Request,
                     response: SetBool.Response) -> SetBool.Response:
        verb = 'enable' if request.data else 'disable'
        return self._answer(response, verb,
                            lambda session: session.set_enabled(request.data))

    async def _save_map(self, _: Trigger.Request,
                        response: Trigger.Response) -> Trigger.Response:
        started: list[concurrent.futures.Future[str]] = []

        def save(session: Session) -> str:
            started.append(session.save())
            return ''
        response = self._answer(response, 'save', save)
        if not started:
            return response
        written, executor = Future(), self.executor

        def wake(_: concurrent.futures.Future[str]) -> None:
            written.set_result(None)
            executor.wake()
        started[0].add_done_callback(wake)
        await written
        return self._attempt(response, 'save', started[0].result)

    def _load_map(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, 'load', Session.load)

    def _answer(self, response: Answer, verb: str, action: Callable[[Session], str]) -> Answer:
        if self._session is None:
            response.message = f'nothing to {verb}: the node is not configured'
            return response
        return self._attempt(response, verb, lambda: action(self._session))

    def _attempt(self, response: Answer, verb: str, action: Callable[[], str]) -> Answer:
        try:
            response.message = action()
            response.success = True
        except (MapEmptyError, OSError, ValueError) as error:
            response.success, response.message = False, f'{verb} failed: {error}'
        # An exception that leaves a service callback would end the process without a response.
        except Exception as error:
            self.get_logger().error(f'{verb}: {traceback.format_exc()}')
            response.success = False
            response.message = f'{verb} failed: {type(error).__name__}: {error}'
        return response


def main(args: Sequence[str] | None = None,
         create_network: CreateNetwork = load_network) -> int:
    """Run the node until a signal; return the exit status."""
    # The handlers of rclpy invalidate the context at once; the worker could not finish its frame.
    stop = stop_on_signals()
    wait_without_spinning()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError) as error:
        # Without the lines of rcl's source that follow.
        sys.stderr.write(f'mapper_node: {str(error).partition(", at /")[0]}\n')
        return 1
    try:
        node = MapperNode(create_network)
    except (ValueError, ParameterException) as error:
        get_logger('mapper').fatal(str(error))
        rclpy.shutdown()
        return 1
    forward_logging(node.get_logger())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        while rclpy.ok() and not stop.is_set():
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_SEC)
    finally:
        # Collecting what torch has created takes half a second of a stop.
        gc.freeze()
        executor.shutdown()
        node.close()
        node.destroy_node()
        rclpy.shutdown()
        ignore_signals()
    return 0


if __name__ == '__main__':
    sys.exit(main())
