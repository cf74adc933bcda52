# Generated from proto/ by `make proto`; do not edit.
from tinsmith.sampler.v1.sampler_service_pb2 import *  # noqa: F403
from tinsmith.sampler.v1.sampler_service_pb2_grpc import *  # noqa: F403
