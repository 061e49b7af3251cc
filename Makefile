# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs (scripts/bootstrap.sh); CI runs the same commands.
SHELL := /bin/bash
export PYTHON ?= python3
RUN ?= bundled
# A sourced ROS 2 brings plugins of pytest that are older than the pytest in .venv.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1
# Tests of the node mostly wait: three at once keep two cores busy.
JOBS ?= 3
parallel := -p xdist -n $(JOBS) --dist loadfile
run := scripts/run.sh

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-long test test-noble test-avx2 test-full lint train evaluate bench bench-node bench-network bench-bags bench-colours bench-blind bench-blind-pictures bench-carving bench-exports bench-large-images bench-long bench-grid bench-keyframes bench-loops bench-fragments bench-map bench-bag-launch bench-memory bench-packages bench-report bench-rendering bench-shared bench-startup bench-sum bench-tf bench-view soak cycles check-cuda clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup:  ## environment in .venv and the built package in install; seconds when they stand
	@scripts/bootstrap.sh

demo: setup  ## play the bundled bag, or BAG=path TOPIC=/camera/image_raw, into the mapper; VIEW=1: watch it
	@$(run) scripts/demo $(if $(BAG),--bag '$(BAG)') $(if $(TOPIC),--topic '$(TOPIC)') \
	  $(if $(VIEW),--view)

demo-long: setup  ## a robot in a generated building: loops, scale and grid against the truth, NETWORK=
	@OMP_NUM_THREADS=1 $(run) scripts/demo_long \
	  $(if $(NETWORK),--network '$(NETWORK)')

test: setup  ## all tests except the full-size ones; JOBS= processes
	@$(run) python -m pytest $(parallel) test/unit test/parity test/underlay test/browser test/node

test-noble:  ## unit and parity tests with the library versions of Ubuntu 24.04, without ROS
	@scripts/noble.sh python -m pytest test/unit test/parity

test-avx2: setup  ## what depends on the CPU, as with AVX2 and neither AVX-512 nor bfloat16
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(run) python -m pytest \
	  test/unit/test_inference.py test/unit/test_static.py test/parity/test_recordings.py \
	  -k 'bfloat16 or bits or int8 or rounding or tiny_capacity'

test-full: setup  ## the tests with the full-size network
	@$(run) python -m pytest -m full test/parity test/node

lint: setup  ## ruff
	@$(run) ruff check .

train: setup  ## the bundled model (many hours), RUN=one of its runs, FROM=, PROCESSES=1 or 2; resumes
	@OMP_NUM_THREADS=1 $(run) torchrun --nproc_per_node $(or $(PROCESSES),1) \
	  -m spann3r_ros.cli train output/training$(if $(filter-out bundled,$(RUN)),/$(RUN)) \
	  --run $(or $(RUN),bundled) $(if $(FROM),--start-from $(FROM)) $(if $(SHARDS),--shards $(SHARDS))

evaluate: setup  ## score the bundled model on unseen rooms (a quarter of an hour), and draw some
	@$(run) scripts/spann3r evaluate models/rooms_small.safetensors \
	  --reference models/held_out_reference.json --picture output/rooms.png

bench: bench-bags bench-network bench-node  ## the network, then the node (minutes, 12 GiB)

bench-node: setup  ## what the node costs apart from the network, PROFILE=1: and where
	@$(run) python benchmarks/node_cost.py $(if $(PROFILE),--profile)

bench-network: setup  ## the network beside a plain schedule and the machine's limit (minutes, 12 GiB)
	@$(run) python benchmarks/network.py

bench-bags: setup  ## how fast a replay reads bags (a minute)
	@$(run) python benchmarks/bag_reading.py

bench-colours: setup  ## colours of a chart in every encoding of images (seconds)
	@$(run) python benchmarks/image_colours.py

bench-blind: setup  ## images that show nothing in the bundled bag (two minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/blind_images.py

bench-blind-pictures: setup  ## how many pictures count as blind (minutes), FOLDERS= of further ones
	@OMP_NUM_THREADS=1 $(run) python benchmarks/blind_pictures.py $(FOLDERS)

bench-carving: setup  ## filters and carving in maps of unseen rooms (three minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/carving.py

bench-exports: setup  ## export of a map of a million points (a minute)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/exports.py

bench-large-images: setup  ## raw images of 1080p and 4K, with and without the Fast DDS profile (two minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/large_images.py

bench-long: setup  ## 10,000 frames over 2 km: memory, time, corrections (ten minutes), FRAMES=
	@OMP_NUM_THREADS=1 $(run) python benchmarks/long_path.py --frames $(or $(FRAMES),10000) \
	  --plot docs/long_path.png

bench-grid: setup  ## the occupancy grid: cost of a keyframe and of a grid (one minute)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/grid_cost.py

bench-keyframes: setup  ## keyframes by parallax: cost of a frame, map at several thresholds (a minute), BAGS= of further ones
	@OMP_NUM_THREADS=1 $(run) python benchmarks/keyframe_selection.py $(BAGS)

bench-loops: setup  ## what features and pairs of a network give for loops (two minutes), CHECKPOINT=
	@$(run) python benchmarks/loop_pairs.py $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

bench-fragments: setup  ## what the path loses or gains by short fragments (half an hour), ROOMS=
	@OMP_NUM_THREADS=1 $(run) python benchmarks/fragment_length.py --rooms $(or $(ROOMS),3)

bench-map: setup  ## large maps: pose graphs, views of many fragments, keyframes beyond the bounds (two minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/map_views.py

bench-bag-launch: setup  ## a bag that starts together with the node loses no image (ten minutes), TRIES=
	@OMP_NUM_THREADS=1 $(run) python benchmarks/bag_tries.py --tries $(or $(TRIES),20)

bench-memory: setup  ## what the network's memory costs as it grows (minutes, 10 GiB), FRAMES=
	@$(run) python benchmarks/memory.py --frames $(or $(FRAMES),2000)

bench-packages: setup  ## ROS packages beside the node's own conversions (a minute)
	@$(run) python benchmarks/ros_packages.py

bench-report: setup  ## size of report.html and the time to write it (seconds)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/report_cost.py

bench-rendering: setup  ## how fast training images are drawn, beside a training step (a minute, 340 MB the first time)
	@$(run) python benchmarks/rendering.py

bench-shared: setup  ## what the mapper loses beside busy processes (two minutes), ARGUMENTS=--full-size
	@$(run) python benchmarks/shared_processor.py $(ARGUMENTS)

bench-startup: setup  ## how long a start takes, and its memory (a minute, 8 GiB)
	@$(run) python benchmarks/startup.py

bench-sum: setup  ## what keyframes, fragments, loops, scale, carving and grid cost together (ten minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/mapping_sum.py

bench-tf: setup  ## what the transforms of a robot cost the node (two minutes)
	@$(run) python benchmarks/tf_cost.py

bench-view: setup  ## the live view: large maps, and what it costs a replay (two minutes)
	@OMP_NUM_THREADS=1 $(run) python benchmarks/live_view.py

soak: setup  ## 10,000 frames through the live node (a quarter of an hour), FRAMES=
	@$(run) python benchmarks/soak.py --frames $(or $(FRAMES),10000)

cycles: setup  ## 200 cycles of the lifecycle and 50 loads of a map leave nothing behind (four minutes), CYCLES=
	@OMP_NUM_THREADS=1 $(run) python benchmarks/cycles.py --cycles $(or $(CYCLES),200)

check-cuda: setup  ## check a GPU: numbers, speed, maps, lack of memory (4 minutes), PARTS=
	@$(run) scripts/spann3r check --device cuda --output output/check.json --table output/check.md \
	  --recordings '$(or $(SPANN3R_GOLDENS),test/parity/data)' $(if $(PARTS),--parts $(PARTS))

clean:  ## remove the environment and what was built; keeps output
	rm -rf .venv .venv-noble build install log .setup.lock .setup-noble.lock
