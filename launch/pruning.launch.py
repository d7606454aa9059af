# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Start the pruner, which trains and prunes agents when asked and publishes the good bundles.

    ros2 launch pruned_controller pruning.launch.py sparsity:=0.9
    ros2 service call /pruner/prune std_srvs/srv/Trigger

It needs torch, and may run on another machine than the controller.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
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
        description='YAML file with the parameters of the pruner; arguments above win over it'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='Namespace of the node and its topics'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='Least severity that is logged'),
]


def pruner(context):
    """Return the node; an argument that is empty must not hide what params_file says."""
    given = {name: ParameterValue(LaunchConfiguration(name), value_type=kind)
             for name, kind in (('agent', str), ('sparsity', float), ('runs', str))
             if context.launch_configurations[name]}
    return [Node(
        package='pruned_controller',
        executable='pruner_node',
        namespace=LaunchConfiguration('namespace'),
        name='pruner',
        parameters=[LaunchConfiguration('params_file'), given],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )]


def generate_launch_description():
    """Return the pruner."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=pruner)])
