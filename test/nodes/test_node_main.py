# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What every node is run with, and by."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
import rclpy

from pruned_controller import node_main
from pruned_controller.processes import NodeProcesses

LOOK = """
import rclpy
from pruned_controller.node_main import run_node
from pruning_core.errors import ConfigError

def make():
    node = rclpy.create_node('looks')
    with open('/proc/self/maps') as maps:
        print('shared' if '/dev/shm/fastrtps' in maps.read() else 'apart')
    raise ConfigError('enough')

raise SystemExit(run_node(make, None))
"""


@pytest.mark.skipif(rclpy.get_rmw_implementation_identifier() != 'rmw_fastrtps_cpp',
                    reason='another middleware has no such transport')
@pytest.mark.parametrize(('chosen', 'found'), [(None, 'apart'), ('DEFAULT', 'shared')])
def test_nodes_share_no_memory_unless_told_to(chosen, found):
    environment = {k: v for k, v in os.environ.items()
                   if k not in ('FASTDDS_BUILTIN_TRANSPORTS', 'ROS_AUTOMATIC_DISCOVERY_RANGE')}
    if chosen:
        environment['FASTDDS_BUILTIN_TRANSPORTS'] = chosen
    done = subprocess.run([sys.executable, '-c', LOOK], env=environment, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (2, found), done.stderr


def test_a_prefix_runs_the_node_and_becomes_it(tmp_path, until):
    nodes = NodeProcesses(tmp_path)
    nodes.start('plant', 'output:=neither', prefix=('nice', '-n', '5'))
    try:
        pid = nodes.pid('plant')
        until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 5, 'its priority')
        assert nodes.wait('plant', 60.0) == 2
        assert "output 'neither' was asked for" in nodes.log('plant')
    finally:
        nodes.stop()


@pytest.mark.parametrize('chosen', [False, True])
def test_nodes_announce_themselves_often_unless_a_profile_is_chosen(chosen, tmp_path):
    environment = {k: v for k, v in os.environ.items() if 'PROFILES_FILE' not in k}
    own = tmp_path / 'own.xml'
    if chosen:
        shutil.copy(Path(node_main.__file__).with_name('fastdds.xml'), own)
        environment['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(own)
    tells = LOOK.replace('def make():', """def make():
    import os
    print('told', *(os.environ.get(f'FAST{k}_DEFAULT_PROFILES_FILE') for k in ('DDS', 'RTPS')))""")
    done = subprocess.run([sys.executable, '-c', tells], env=environment, capture_output=True,
                          text=True, check=False)
    (newer, older), = (line.split()[1:] for line in done.stdout.splitlines()
                       if line.startswith('told '))
    if chosen:
        assert (newer, older) == ('None', str(own))
        return
    assert newer == older
    root = xml.etree.ElementTree.parse(older).getroot()
    space = {'d': 'http://www.eprosima.com'}
    assert root.find('d:participant', space).get('is_default_profile') == 'true'
    assert int(root.find('.//d:initialAnnouncements/d:count', space).text) == 30
    assert 'XML' not in done.stderr, 'Fast DDS complains of what it cannot read'
