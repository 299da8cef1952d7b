"""A Ray cluster of two CPUs on this machine: prints its address, and ends when its standard input does."""

import sys

import ray

ray.init(
    address="local",
    num_cpus=2,
    include_dashboard=False,
    object_store_memory=100 * 2**20,
    _system_config={"worker_niceness": 0},  # tests have a time limit, wherever they run
)
sys.stdout.write(ray.get_runtime_context().gcs_address + "\n")
sys.stdout.flush()
sys.stdin.read()
