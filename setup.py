# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Package description for colcon (ament_python) and pip.

The version comes from package.xml, so that the two cannot differ.
"""

import xml.etree.ElementTree
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'pruned_controller'
ROOT = Path(__file__).resolve().parent

TRAIN = ['gymnasium>=1.0', 'safetensors>=0.4', 'scipy>=1.10', 'torch>=2.4', 'tqdm>=4.60']
MUJOCO = ['gymnasium[mujoco]>=1.0']
EXPORT = ['onnx>=1.16', 'safetensors>=0.4']
SIGN = ['cryptography>=41']
VIZ = ['matplotlib>=3.7', 'tensorboard>=2.14']
BAGS = ['rosbags>=0.11']
STUDIES = ['scikit-learn>=1.3']
CLUSTER = ['distributed>=2024.1']
COMPLETE = ['argcomplete>=3']
TEST = ['hypothesis>=6.90', 'pytest>=7.4']
DEV = [*TEST, 'mypy', 'pytest-xdist>=3.7', 'ruff', 'torch-pruning==1.6.1', 'types-PyYAML']


def manifest_version():
    """Return the version that package.xml states."""
    return xml.etree.ElementTree.parse(ROOT / 'package.xml').findtext('version')


def files(folder, pattern):
    """Return the files of a folder, as paths relative to this one; setuptools wants those."""
    found = sorted(path for path in (ROOT / folder).glob(pattern) if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in found]


def zoo():
    """Return every file of the shipped agents, relative to pruning_core."""
    return [name.split('/', 1)[1] for name in files('pruning_core/zoo', '**/*')]


setup(
    name=PACKAGE,
    version=manifest_version(),
    description='Component-aware pruning of neural-network controllers, and their ROS 2 nodes.',
    author='The pruned_controller authors',
    maintainer='The pruned_controller authors',
    maintainer_email='maintainers@pruned-controller.dev',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(
        include=['pruning_core', 'pruning_core.*', 'pruned_controller', 'pruned_controller.*'],
    ),
    package_data={'pruning_core': ['py.typed', *zoo()],
                  'pruned_controller': ['py.typed', 'fastdds.xml']},
    zip_safe=False,
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', files('launch', '*.py')),
        (f'share/{PACKAGE}/config', files('config', '*')),
        (f'share/{PACKAGE}/config/sros2', files('config/sros2', '*')),
    ],
    install_requires=['numpy>=1.21', 'onnxruntime>=1.17', 'PyYAML>=5.4'],
    extras_require={'train': TRAIN, 'mujoco': MUJOCO, 'export': EXPORT, 'sign': SIGN, 'viz': VIZ,
                    'bags': BAGS, 'studies': STUDIES, 'cluster': CLUSTER, 'complete': COMPLETE,
                    'test': TEST, 'dev': DEV},
    entry_points={
        'console_scripts': [
            'controller_node = pruned_controller.controller_node:main',
            'demo = pruned_controller.demo:main',
            'plant_node = pruned_controller.plant_node:main',
            'pruner_node = pruned_controller.pruner_node:main',
            'pruning-core = pruning_core.cli:main',
        ],
    },
)
