# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Start a plant, a controller that runs the dense agent on it, and the pruner, all together.

    ros2 launch pruned_controller demo.launch.py
    ros2 service call /pruner/prune std_srvs/srv/Trigger
    ros2 topic echo /controller/mode --qos-durability transient_local

The pruned bundle is swapped in while the plant runs on. What the demo makes, the dense bundle and
the jobs, lies in the log folder of the launch. All ends when the plant or the controller does.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition, UnlessCondition
from launch.event_handlers import OnProcessExit
from launch.substitutions import (
    EqualsSubstitution,
    LaunchConfiguration,
    LaunchLogDir,
    PathJoinSubstitution,
)
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

ARGUMENTS = [
    DeclareLaunchArgument(
        'agent', default_value='pendulum_dense',
        description='Agent to run and to prune: run folder, or a shipped name'),
    DeclareLaunchArgument(
        'sparsity', default_value='',
        description='Share of the parameters to remove; empty: as in params_file'),
    DeclareLaunchArgument(
        'bundle', default_value='',
        description='Bundle folder to start with; empty: the agent is exported first'),
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('pruned_controller'), 'config', 'demo.yaml']),
        description='YAML file with the parameters of the three nodes'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='Namespace of the nodes and their topics'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='Least severity that is logged'),
]


def include(name, arguments, condition=None):
    """Include a launch file of this package; it sees the arguments of this one too."""
    path = PathJoinSubstitution([FindPackageShare('pruned_controller'), 'launch', name])
    return IncludeLaunchDescription(
        path, launch_arguments=arguments.items(), condition=condition)


def end_after(process):
    """Answer the end of a process: the others end too, unless they are about to."""
    return lambda event, context: None if context.is_shutdown else Shutdown(
        reason=f'the {process} has ended')


def generate_launch_description():
    """Return plant, pruner and, once its bundle is there, the controller."""
    exported = PathJoinSubstitution([LaunchLogDir(), 'dense'])
    no_bundle = EqualsSubstitution(LaunchConfiguration('bundle'), '')
    plant = Node(
        package='pruned_controller',
        executable='plant_node',
        namespace=LaunchConfiguration('namespace'),
        name='plant',
        parameters=[LaunchConfiguration('params_file')],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
        on_exit=end_after('plant'),
    )
    export = ExecuteProcess(
        cmd=[ExecutableInPackage('pruning-core', 'pruned_controller'), 'export',
             '--agent', LaunchConfiguration('agent'), '--out', exported],
        condition=IfCondition(no_bundle),
        output='screen',
    )

    def after_export(event, context):
        if event.returncode:
            return end_after('export')(event, context)
        return include('controller.launch.py', {'bundle': exported})

    return LaunchDescription([
        *ARGUMENTS,
        RegisterEventHandler(OnProcessExit(target_action=export, on_exit=after_export)),
        RegisterEventHandler(OnProcessExit(
            target_action=lambda action: isinstance(action, LifecycleNode),
            on_exit=end_after('controller'))),
        RegisterEventHandler(OnStateTransition(
            start_state='configuring', goal_state='unconfigured',
            entities=[Shutdown(reason='the controller refused its bundle or its parameters')])),
        plant,
        include('pruning.launch.py', {'runs': PathJoinSubstitution([LaunchLogDir(), 'jobs'])}),
        export,
        include('controller.launch.py', {'bundle': LaunchConfiguration('bundle')},
                condition=UnlessCondition(no_bundle)),
    ])
