# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

setup(
    name='sensor_msgs_py',
    version='0.0.1',
    packages=['sensor_msgs_py'],
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/sensor_msgs_py']),
        ('share/sensor_msgs_py', ['package.xml']),
    ],
)
