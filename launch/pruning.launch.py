# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Start the pruner, which trains and prunes agents when asked and publishes the good bundles.

    ros2 launch pruned_controller pruning.launch.py sparsity:=0.9
    ros2 service call /pruner/prune std_srvs/srv/Trigger

It needs torch, and may run on another machine than the controller.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, NotEqualsSubstitution, PathJoinSubstitution
from launch_ros.actions import Node, SetParameter, SetParametersFromFile
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = [
    DeclareLaunchArgument(
        'agent', default_value='',
        description='Agent to prune: run folder, or a shipped name; empty: as in params_file'),
    DeclareLaunchArgument(
        'sparsity', default_value='',
        description='Share of the parameters to remove; empty: as in params_file'),
    DeclareLaunchArgument(
        'runs', default_value='',
        description='Where jobs keep their folders; empty: as in params_file'),
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('pruned_controller'), 'config', 'pruner.yaml']),
        description='YAML file with the parameters of the pruner; the arguments above win over it'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='Namespace of the node and its topics'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='Least severity that is logged'),
]


def given(name, kind):
    """Set a parameter from the argument of its name, unless that is empty."""
    value = LaunchConfiguration(name)
    return SetParameter(name, ParameterValue(value, value_type=kind),
                        condition=IfCondition(NotEqualsSubstitution(value, '')))


def generate_launch_description():
    """Return the pruner."""
    pruner = Node(
        package='pruned_controller',
        executable='pruner_node',
        namespace=LaunchConfiguration('namespace'),
        name='pruner',
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    return LaunchDescription([
        *ARGUMENTS,
        GroupAction([
            SetParametersFromFile(LaunchConfiguration('params_file')),
            given('agent', str),
            given('sparsity', float),
            given('runs', str),
            pruner,
        ]),
    ])
