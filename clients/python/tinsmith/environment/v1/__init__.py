# Generated from proto/ by `make proto`; do not edit.
from tinsmith.environment.v1.environment_service_pb2 import *  # noqa: F403
from tinsmith.environment.v1.environment_service_pb2_grpc import *  # noqa: F403
