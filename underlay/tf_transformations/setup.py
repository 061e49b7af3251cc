# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

setup(
    name='tf_transformations',
    version='0.0.1',
    packages=['tf_transformations'],
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/tf_transformations']),
        ('share/tf_transformations', ['package.xml']),
    ],
)
