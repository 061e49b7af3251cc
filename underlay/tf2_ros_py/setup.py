# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

setup(
    name='tf2_ros_py',
    version='0.0.1',
    packages=['tf2_ros'],
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/tf2_ros_py']),
        ('share/tf2_ros_py', ['package.xml']),
    ],
)
