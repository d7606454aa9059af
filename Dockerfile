# ROS 2 Jazzy with this package built, and the trainer beside it.
#   docker build -t pruned_controller .                      everything
#   docker build -t pruned_controller:edge --target edge .   the robot: no torch
FROM ros:jazzy-ros-base AS edge

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ws/src/pruned_controller
COPY requirements requirements
# Ubuntu's own Python is externally managed (PEP 668); this one sees its packages, rclpy among them.
RUN python3 -m venv --system-site-packages /opt/venv \
    && touch /opt/venv/COLCON_IGNORE \
    && /opt/venv/bin/pip install --no-cache-dir -r requirements/edge.txt -c requirements/constraints.txt
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv

COPY . .
WORKDIR /ws
# `python -m colcon`: one started with the system's Python would not see the environment.
RUN source /opt/ros/jazzy/setup.bash && python -m colcon build --packages-select pruned_controller

RUN printf '%s\n' '#!/bin/bash' 'set -e' 'source /opt/ros/jazzy/setup.bash' \
        'source /ws/install/setup.bash' 'exec "$@"' > /entrypoint \
    && chmod 0755 /entrypoint \
    && useradd --create-home robot
USER robot
WORKDIR /home/robot
ENTRYPOINT ["/entrypoint"]
CMD ["ros2", "launch", "pruned_controller", "controller.launch.py", "--show-args"]

FROM edge AS full

USER root
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/venv/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
        -r /ws/src/pruned_controller/requirements/base.txt \
        -c /ws/src/pruned_controller/requirements/constraints.txt
USER robot
CMD ["ros2", "launch", "pruned_controller", "demo.launch.py"]
