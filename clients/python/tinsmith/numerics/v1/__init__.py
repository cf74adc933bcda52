# Generated from proto/ by `make proto`; do not edit.
from tinsmith.numerics.v1.numerics_service_pb2 import *  # noqa: F403
from tinsmith.numerics.v1.numerics_service_pb2_grpc import *  # noqa: F403
