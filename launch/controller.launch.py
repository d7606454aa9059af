# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Start the controller and bring it to active, so that it answers observations with commands.

    ros2 launch pruned_controller controller.launch.py bundle:=FOLDER

If it refuses to be configured it says why and stays up, unconfigured: correct what it names, then
`ros2 lifecycle set /controller configure`. The launch ends with the node.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import (
    AndSubstitution,
    LaunchConfiguration,
    NotSubstitution,
    PathJoinSubstitution,
)
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

ARGUMENTS = [
    DeclareLaunchArgument(
        'bundle',
        description='Bundle folder to start with; python -m pruning_core export makes one'),
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('pruned_controller'), 'config', 'controller.yaml']),
        description='YAML file with the parameters of the controller; `bundle` wins over it'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='Namespace of the node and its topics'),
    DeclareLaunchArgument('name', default_value='controller', description='Name of the node'),
    DeclareLaunchArgument(
        'autostart', default_value='true', choices=['true', 'false'],
        description='Configure and activate the node; false leaves that to someone else'),
    DeclareLaunchArgument(
        'use_respawn', default_value='false', choices=['true', 'false'],
        description='Start the node again when it ends, with the last bundle that proved itself'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='Least severity that is logged'),
]


def generate_launch_description():
    """Return the controller and what activates it; one that is respawned does so itself."""
    wanted, respawns = LaunchConfiguration('autostart'), LaunchConfiguration('use_respawn')
    by_itself = AndSubstitution(wanted, respawns)
    controller = LifecycleNode(
        package='pruned_controller',
        executable='controller_node',
        namespace=LaunchConfiguration('namespace'),
        name=LaunchConfiguration('name'),
        parameters=[
            LaunchConfiguration('params_file'),
            {'bundle': ParameterValue(LaunchConfiguration('bundle'), value_type=str),
             'autostart': ParameterValue(by_itself, value_type=bool),
             'resume': ParameterValue(LaunchConfiguration('use_respawn'), value_type=bool)},
        ],
        respawn=LaunchConfiguration('use_respawn'),
        respawn_delay=0.5,
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )

    def change(transition, condition=None):
        event = ChangeState(lifecycle_node_matcher=matches_action(controller),
                            transition_id=transition)
        return EmitEvent(event=event, condition=condition)

    autostart = IfCondition(AndSubstitution(wanted, NotSubstitution(respawns)))
    return LaunchDescription([
        *ARGUMENTS,
        RegisterEventHandler(condition=autostart, event_handler=OnStateTransition(
            target_lifecycle_node=controller, start_state='configuring', goal_state='inactive',
            entities=[change(Transition.TRANSITION_ACTIVATE)])),
        controller,
        change(Transition.TRANSITION_CONFIGURE, autostart),
    ])
